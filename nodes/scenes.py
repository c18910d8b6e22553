"""TM_PasteBack, TM_Character, TM_SceneStream, TM_Layer and TM_Canvas: several faces, one video."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from torch import Tensor

from ..tm_core import talk
from ..tm_core.compose import assembly
from ..tm_core.compose.canvas import FrameStream
from ..tm_core.families.settings import Choices
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import devices, encoders, folders, pictures, sound
from .host.schemas import field, io, schema
from .stream import MAX_SEED

MOST_PIXELS = assembly.MOST_SIDE


def mix_file() -> Path:
    """A new name in the host's temporary folder."""
    handle, name = mkstemp(prefix="tm_mix_", suffix=".wav", dir=folders.temp_folder())
    os.close(handle)
    return Path(name)


def place_in_mix() -> list[Any]:
    """Inputs that say how loud a sound is in a mix and where it comes from."""
    return [
        field(
            io.Float, "gain_db", default=0.0, min=-60.0, max=20.0, step=0.5, advanced=True, tooltip="Louder or softer in the mix, in dB."),
        field(
            io.Float, "pan", default=0.0, min=-1.0, max=1.0, step=0.05, advanced=True,
            tooltip="Where the sound comes from: -1 left, 0 middle, 1 right."),
    ]


class PasteBack(io.ComfyNode):
    """An animated crop put back into the picture it was cut from."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_PasteBack."""
        return schema(
            node_id="TM_PasteBack",
            display_name="Paste Back",
            description="Shows an animated face in another copy of the picture it was cut from. Models of faces draw on that picture "
            "itself; frames of other models are put where they were cut from. All other pixels stay as they are, to the bit.",
            inputs=[
                field(wires.FrameStream, "frames", tooltip="The animated face."),
                field(io.Image, "image", tooltip="The picture that Portrait and Face Mask was given, or a retouched copy of its size."),
                field(wires.Portrait, "portrait", tooltip="What Portrait and Face Mask made of it: it knows the place."),
            ],
            outputs=[wires.FrameStream.Output("pasted", display_name="frame stream", tooltip="The whole picture, talking.")],
        )

    @classmethod
    def execute(cls, frames: FrameStream, image: Tensor, portrait: talk.Portrait) -> Any:
        """Describe the stream; InputError for another picture."""
        return io.NodeOutput(talk.put_back(pictures.picture_of(image), [frames], [portrait]))


class Character(io.ComfyNode):
    """Somebody who takes part in a scene."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_Character."""
        return schema(
            node_id="TM_Character",
            display_name="Character",
            description="A face of a picture and what it says. Chain several for a scene.",
            inputs=[
                field(wires.Portrait, "portrait", tooltip="The face, from Portrait and Face Mask of the scene's picture."),
                field(wires.Speaker, "speaker", tooltip="What is said and when, from Speaking / Silence."),
                field(wires.Cast, "others", optional=True, tooltip="The characters before this one."),
                field(io.String, "name", default="", tooltip="For messages; may stay empty."),
                *place_in_mix(),
            ],
            outputs=[wires.Cast.Output("cast", display_name="cast", tooltip="Everybody so far.")],
        )

    @classmethod
    def execute(
        cls, portrait: talk.Portrait, speaker: talk.Speaker, name: str = "", gain_db: float = 0.0, pan: float = 0.0,
        others: talk.Cast | tuple[()] = (),
    ) -> Any:
        """Add."""
        return io.NodeOutput(talk.Cast((*others, talk.Character(portrait=portrait, speaker=speaker, name=name, gain_db=gain_db, pan=pan))))


class SceneStream(io.ComfyNode):
    """Several faces of one picture, talking."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SceneStream."""
        return schema(
            node_id="TM_SceneStream",
            display_name="Scene of Several Faces",
            description="Animates every character of a picture, each with a voice and a schedule, and gives the whole picture with all "
            "voices mixed. Nothing is computed before a preview, save or collect node pulls.",
            inputs=[
                field(wires.Model, "model", tooltip="The model that draws."),
                field(io.Image, "image", tooltip="The picture, of any size, from which the portraits were cut."),
                field(wires.Cast, "cast", tooltip="The characters."),
                field(
                    io.Int, "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
                    tooltip="The same seed and inputs give the same video. Each character draws from a seed of its own."),
                field(
                    io.Int, "steps", default=0, min=0, max=100, advanced=True,
                    tooltip="Denoising steps. 0: as many as the model was made for."),
                field(
                    io.Combo, "device", options=devices.offered(), default=devices.AUTO, advanced=True,
                    tooltip="Where frames are decoded. auto: where the model is."),
                field(
                    io.Int, "queue_depth", default=2, min=1, max=16, advanced=True, tooltip="Chunks that may wait between the workers."),
                field(io.Conditioning, "positive", optional=True, tooltip="Open models only: the prompt."),
                field(io.Conditioning, "negative", optional=True, tooltip="Open models with text guidance only: what to avoid."),
                field(
                    io.ClipVisionOutput, "clip_vision_output", optional=True,
                    tooltip="Open models only: the picture as CLIP Vision Encode sees it."),
            ],
            outputs=[
                wires.FrameStream.Output("frames", display_name="frame stream", tooltip="The whole picture, for any number of sinks."),
            ],
        )

    @classmethod
    def execute(
        cls, model: TalkingModel, image: Tensor, cast: talk.Cast, seed: int, steps: int = 0, device: str = devices.AUTO,
        queue_depth: int = 2, positive: Any = None, negative: Any = None, clip_vision_output: Any = None,
    ) -> Any:
        """Describe the stream; InputError for characters that cannot stand in one scene."""
        prompt = talk.Prompt(
            text=encoders.prompt_of(positive, "positive"), negative=encoders.prompt_of(negative, "negative"),
            image=encoders.picture_tokens(clip_vision_output))
        seconds = max(c.speaker.voice.duration_s for c in cast) if cast else 0.0
        path = mix_file()
        try:
            stream = talk.scene_stream(
                model, pictures.picture_of(image), cast, assembly.mixed([c.track for c in cast], seconds, path.parent, path.name),
                seed=seed, choices=Choices(steps=steps or None), prompt=prompt,
                device=None if device == devices.AUTO else devices.named(device), queue_depth=queue_depth)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        sound.remove_with(stream, path)
        return io.NodeOutput(stream)


class Layer(io.ComfyNode):
    """A stream with a place on a canvas."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_Layer."""
        return schema(
            node_id="TM_Layer",
            display_name="Layer",
            description="Gives a stream its place on a canvas. Chain several; Canvas puts them together.",
            inputs=[
                field(wires.FrameStream, "frames", tooltip="The stream."),
                field(wires.Layers, "others", optional=True, tooltip="The layers before this one."),
                field(io.Int, "x", default=0, min=-MOST_PIXELS, max=MOST_PIXELS, tooltip="Left edge on the canvas, in pixels."),
                field(io.Int, "y", default=0, min=-MOST_PIXELS, max=MOST_PIXELS, tooltip="Upper edge on the canvas, in pixels."),
                field(io.Int, "width", default=0, min=0, max=MOST_PIXELS, tooltip="Width on the canvas. 0: the stream's own."),
                field(io.Int, "height", default=0, min=0, max=MOST_PIXELS, tooltip="Height on the canvas. 0: the stream's own."),
                field(io.Int, "layer", default=0, min=-100, max=100, tooltip="Higher ones cover lower ones."),
                field(io.Boolean, "soft_edge", default=False, tooltip="Fade out towards the edge instead of a hard border."),
                field(
                    io.Float, "start_s", default=0.0, min=0.0, max=36000.0, step=0.1, advanced=True,
                    tooltip="When the stream begins, in seconds. Before, its first frame stands; after its end the last."),
                *place_in_mix(),
            ],
            outputs=[wires.Layers.Output("layers", display_name="layers", tooltip="All layers so far.")],
        )

    @classmethod
    def execute(
        cls, frames: FrameStream, x: int, y: int, width: int, height: int, layer: int, soft_edge: bool, start_s: float = 0.0,
        gain_db: float = 0.0, pan: float = 0.0, others: assembly.Layers | tuple[()] = (),
    ) -> Any:
        """Add."""
        sound.present(frames.meta.audio)
        return io.NodeOutput(assembly.Layers((*others, assembly.Placement(
            frames=frames, x=x, y=y, width=width, height=height, z=layer, soft=soft_edge, start_s=start_s, gain_db=gain_db, pan=pan))))


class Canvas(io.ComfyNode):
    """Layers put together."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_Canvas."""
        return schema(
            node_id="TM_Canvas",
            display_name="Canvas",
            description="Puts streams together on one canvas, on one timeline, with their sounds mixed. Portraits may come from different "
            "models.",
            inputs=[
                field(wires.Layers, "layers", tooltip="What stands where."),
                field(io.Int, "width", default=1024, min=16, max=MOST_PIXELS, tooltip="Width of the canvas in pixels."),
                field(io.Int, "height", default=512, min=16, max=MOST_PIXELS, tooltip="Height of the canvas in pixels."),
                field(io.String, "background", default="black", tooltip="A colour: a name such as black, or #rrggbb."),
                field(io.Image, "image", optional=True, tooltip="A picture as the background; it sets the size instead."),
                field(
                    io.Float, "fps", default=0.0, min=0.0, max=120.0, step=1.0, advanced=True,
                    tooltip="Frames per second. 0: those of the first layer."),
            ],
            outputs=[wires.FrameStream.Output("frames", display_name="frame stream", tooltip="The canvas, for any number of sinks.")],
        )

    @classmethod
    def execute(
        cls, layers: assembly.Layers, width: int, height: int, background: str, image: Tensor | None = None, fps: float = 0.0,
    ) -> Any:
        """Describe the stream; InputError for a layer beside the canvas."""
        canvas = assembly.background(width, height, background) if image is None else pictures.picture_of(image)
        path = mix_file()
        try:
            stream = assembly.assemble(canvas, layers, fps=fps, sound_folder=path.parent, sound_name=path.name)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        sound.remove_with(stream, path)
        return io.NodeOutput(stream)
