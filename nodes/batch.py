"""TM_BatchLipsync: many portraits and voices to videos in the output folder, with the model that is loaded already.

The same ledger as `talking-machines batch`: what is done stays done, a job that was stopped goes on when it is queued again. It
works in this process, one item after the other. Pictures and sounds come from ComfyUI's input folder, as with the host's own nodes.
Open models take what they need besides from nodes of the host: prompts are encoded before, each sound and portrait in its turn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..tm_core import talk
from ..tm_core.batch.digest import SAMPLES, content_digest
from ..tm_core.batch.engine import InlineEngine
from ..tm_core.batch.manifest import BatchItem, parse_manifest
from ..tm_core.batch.pairs import pair_up, pictures_in
from ..tm_core.batch.runner import BatchProgress, run_batch
from ..tm_core.batch.worker import BatchConfig, MakeStream, streams_of
from ..tm_core.errors import InputError
from ..tm_core.families.settings import Choices, settings
from ..tm_core.inputs import check_options
from ..tm_core.media.audio_io import LongWaveform, Waveform
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import encoders, folders, models, pictures, running, sound
from .host.schemas import chosen, field, io, schema
from .stream import check_room, guidance_fields, guided
from .voice import MODES, speech_features

ONE_WAY = "give either a manifest, or a folder of portraits with audio or a folder of sounds"


class BatchLipsync(io.ComfyNode):
    """A manifest, or a folder of portraits with sounds, as videos."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_BatchLipsync."""
        return schema(
            node_id="TM_BatchLipsync",
            display_name="Batch Lipsync",
            description="Makes a video for each portrait and voice, the model loaded once. What is done stays done: a job that was stopped "
            "goes on when it is queued again, and what fails is listed while the rest is made.",
            search_aliases=["batch", "many portraits", "talking head", "lip sync"],
            is_output_node=True,
            inputs=[
                field(wires.Model, "model", tooltip="From Load Talking Model, or an open one from Talking Model from MODEL."),
                field(
                    io.String, "output_folder", default="batch/talking",
                    tooltip="Folder in ComfyUI's output folder for the videos, the ledger and report.json. The same folder goes on."),
                field(
                    io.String, "manifest", default="", multiline=True,
                    tooltip="CSV with a header, or JSON: image, audio, out, and if you like seed, steps, speaking, face, mask, track, "
                    "framing, size. Paths are in ComfyUI's input folder, out is in the output folder. Empty: use the folders below."),
                field(
                    io.String, "portraits", default="",
                    tooltip="Instead of a manifest: a folder in ComfyUI's input folder. Every picture in it is animated."),
                field(
                    io.String, "sounds", default="",
                    tooltip="A folder in ComfyUI's input folder with a sound for each portrait, of the same name: anna.png, anna.wav."),
                field(
                    io.Int, "seed", default=0, min=0, max=2**53 - 1, control_after_generate=False,
                    tooltip="Seed of every portrait; a manifest has its own. Another seed makes the videos again."),
                field(
                    io.Int, "steps", default=0, min=0, max=100,
                    tooltip="Denoising steps of every portrait; 0: the model's own number. A manifest has its own."),
                field(
                    io.Combo, "mode", options=list(MODES), default="auto",
                    tooltip="auto: by the loudness of the sound. speaking: always. silence: faces only listen. A manifest has its own."),
                field(
                    io.Boolean, "retry_failed", default=False,
                    tooltip="Try again what failed when this was queued before. Off: only what is not done or was changed."),
                field(io.Audio, "audio", optional=True, tooltip="One sound for all portraits, instead of a folder of sounds."),
                field(
                    io.AudioEncoder, "audio_encoder", optional=True,
                    tooltip="Open models only: the wav2vec2 they were trained with, from AudioEncoderLoader. Every sound is prepared as in "
                    "their training."),
                field(
                    io.Conditioning, "positive", optional=True,
                    tooltip="Open models only: the prompt of all portraits, from CLIP Text Encode."),
                field(
                    io.Conditioning, "negative", optional=True, tooltip="Open models with text guidance only: what to avoid."),
                field(
                    io.ClipVision, "clip_vision", optional=True,
                    tooltip="Open models only: from Load CLIP Vision. It looks at every portrait, which keeps who it is."),
                *guidance_fields(),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="JSON: how many are done, what failed and why, and the speed."),
                io.Int.Output("count", display_name="count", tooltip="Videos that are in the folder now."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Always looks: files may have come, changed or gone; what is done is not made again."""
        return float("nan")

    @classmethod
    def execute(
        cls, model: TalkingModel, output_folder: str, manifest: str = "", portraits: str = "", sounds: str = "", seed: int = 0,
        steps: int = 0, mode: str = "auto", retry_failed: bool = False, audio: Any = None, audio_encoder: Any = None, positive: Any = None,
        negative: Any = None, clip_vision: Any = None, text_guidance: float = 0.0, audio_guidance: float = 0.0,
        colour_correction: float = -1.0,
    ) -> Any:
        """Make what is not made yet; InputError before anything runs where something cannot be used."""
        making = _Making(
            model=model, choices=guided(text_guidance, audio_guidance, colour_correction), encoder=audio_encoder, vision=clip_vision,
            prompt=talk.Prompt(text=encoders.prompt_of(positive, "positive"), negative=encoders.prompt_of(negative, "negative")))
        options = {
            "seed": seed, "speaking": MODES[chosen("mode", mode, MODES)], **({"steps": steps} if steps else {})}
        out = folders.output_folder(output_folder, "output_folder")
        with _one_sound(audio) as voice:
            items = _items(manifest, portraits, sounds, voice, options, out)
            making.check(items, cls.hidden.unique_id)
            report = _make(items, out, making, retry_failed, cls.hidden.unique_id)
        return io.NodeOutput(json.dumps(report, indent=2), report["done"])


@dataclass(frozen=True, kw_only=True)
class _Making:
    """What all items are made with: a model, and for an open one the host's encoders and prompts."""

    model: TalkingModel
    choices: Choices = dataclasses.field(default_factory=Choices)
    encoder: Any = None
    vision: Any = None
    prompt: talk.Prompt = dataclasses.field(default_factory=talk.Prompt)

    @property
    def open(self) -> bool:
        """Whether there is anything to encode: our own models leave the host's encoders alone."""
        return self.model.config.family is not None

    def check(self, items: list[BatchItem], node_id: str | None) -> None:
        """InputError for what the model needs and does not get, or cannot follow."""
        config = self.model.config
        talk.speech_family(config, encoded=self.encoder is not None)
        for steps in sorted({item.options.steps or 0 for item in items}):
            sampler = settings(config, replace(self.choices, steps=steps or None))
            talk.check_prompt(config, sampler, self.prompt)
            check_room(self.model, sampler, node_id)

    @property
    def digest(self) -> str:
        """Of all of it; of a model alone where there is nothing else."""
        parts: dict[str, Any] = {**asdict(self.choices), "positive": self.prompt.text, "negative": self.prompt.negative}
        if self.open and self.encoder is not None:
            parts["encoder"] = content_digest(encoders.speech_encoder(self.encoder).state_dict(), SAMPLES)
        if self.open and self.vision is not None:
            parts["vision"] = content_digest(encoders.vision_weights(self.vision), SAMPLES)
        parts = {name: value for name, value in parts.items() if value is not None}
        model = models.digest_of(self.model)
        return content_digest([model, parts]) if parts else model

    def streams(self) -> MakeStream:
        """An item's stream: its sound and its portrait are encoded when it is its turn, and nothing of them is kept."""
        return streams_of(self.model, choices=self.choices, encoders=talk.Encoders(speech=self._features, prompt=self._prompt_of))

    def _features(self, waveform: Waveform | LongWaveform) -> Tensor | None:
        return speech_features(self.model, waveform, self.encoder, None, False)

    def _prompt_of(self, portrait: talk.Portrait) -> talk.Prompt:
        if self.vision is None or not self.open:
            return self.prompt
        return replace(self.prompt, image=encoders.vision_tokens(self.vision, pictures.image_of(portrait.crop.image[None])))


def _make(items: list[BatchItem], out: Path, making: _Making, retry_failed: bool, node_id: str | None) -> dict[str, Any]:
    bar = running.Progress(len(items))
    counted = 0

    def tell(now: BatchProgress) -> None:
        nonlocal counted
        ended = now.done + now.failed
        running.tell(node_id, f"{now.done} of {now.total} done" + f", {now.failed} failed" * bool(now.failed))
        counted, more = ended, ended - counted
        bar.advance(more)

    def shown(frame: np.ndarray) -> None:
        bar.advance(0, frame)

    config = BatchConfig(staging=out, device="cpu")  # the model is where it is
    def engine(placed: BatchConfig, _: int) -> InlineEngine:
        return InlineEngine(placed, making.streams(), running.check_interrupt, shown, (running.Interrupted,))

    return run_batch(items, out, engine, model=making.digest, config=config, retry_failed=retry_failed, on_progress=tell).summary()


@contextmanager
def _one_sound(audio: Any) -> Iterator[Path | None]:
    """An AUDIO as a file for as long as it is needed."""
    if audio is None:
        yield None
        return
    path = sound.write_wave(*sound.waveform_of(audio), folders.temp_folder())
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _items(manifest: str, portraits: str, sounds: str, voice: Path | None, options: dict[str, Any], out: Path) -> list[BatchItem]:
    if manifest.strip():
        if portraits.strip() or sounds.strip() or voice is not None:
            raise InputError("manifest", "given", "and portraits, sounds or audio as well", ONE_WAY)
        return parse_manifest(manifest, _located("manifest"), out)
    if not portraits.strip():
        raise InputError("portraits", "nothing", "there is nothing to animate", ONE_WAY)
    if bool(sounds.strip()) == (voice is not None):
        raise InputError("sounds", sounds or "nothing", "sounds come from audio or from a folder", "connect audio, or name a folder")
    check_options(seed=int(options["seed"]))
    faces = pictures_in(_located("portraits")(portraits.strip()))
    return pair_up(faces, voice or _located("sounds")(sounds.strip()), options, out)


def _located(entry: str) -> Callable[[str], Path]:
    return lambda name: folders.input_path(name, entry)
