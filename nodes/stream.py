"""TM_CausalSampler and TM_DecodeStream: the two halves of a stream. Neither computes: a sink pulls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..tm_core import talk
from ..tm_core.config import CacheMode, SamplerConfig
from ..tm_core.errors import InputError
from ..tm_core.families.registry import Mode
from ..tm_core.families.settings import Choices, settings
from ..tm_core.inputs import MOST_SIZE, VideoFraming, check_options
from ..tm_core.streaming.cache_size import check_fits
from ..tm_core.streaming.handles import LatentStream
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import devices, encoders, running
from .host.autoencoder import HostedAutoencoder
from .host.schemas import chosen, field, io, schema

MAX_SEED = 2**53 - 1  # the largest whole number a browser keeps exactly
FRAMINGS: dict[str, VideoFraming] = {"picture": "picture", "face": "face"}
MODES: dict[str, Mode | None] = {devices.AUTO: None, "sparse_causal": "sparse_causal", "bidirectional": "bidirectional"}
CACHES: dict[str, CacheMode | None] = {devices.AUTO: None, "per_step": "per_step", "clean_rerun": "clean_rerun", "recompute": "recompute"}


def framing_fields() -> list[Any]:
    """The inputs of the node that decodes: what a video of a face shows, and how large."""
    return [
        field(
            io.Combo, "framing", options=list(FRAMINGS), default="picture", optional=True,
            tooltip="Models of faces only. picture: the video is the picture, the face moves in it. face: a crop round the face."),
        field(
            io.Int, "size", default=0, min=0, max=MOST_SIZE, optional=True, advanced=True,
            tooltip="Models of faces only: pixels of the video's longer side. 0: a picture as it is, 1024 at most; a face 512."),
    ]


def guidance_fields() -> list[Any]:
    """The inputs of the nodes that sample, to change what a model was made for."""
    return [
        field(
            io.Float, "text_guidance", default=0.0, min=0.0, max=30.0, step=0.1, optional=True, advanced=True,
            tooltip="How much the prompt counts. 0: as the model was made for. 1: no guidance, the fastest."),
        field(
            io.Float, "audio_guidance", default=0.0, min=0.0, max=30.0, step=0.1, optional=True, advanced=True,
            tooltip="How much the sound counts. 0: as the model was made for. 1: no guidance, the fastest."),
        field(
            io.Float, "colour_correction", default=-1.0, min=-1.0, max=1.0, step=0.05, optional=True, advanced=True,
            tooltip="How far colours are held to the portrait's, which clips lose slowly. -1: as the model's authors do. 0: off."),
    ]


def guided(text_guidance: float, audio_guidance: float, colour_correction: float) -> Choices:
    """What those inputs say."""
    return Choices(
        text=text_guidance or None, audio=audio_guidance or None, colour_correction=None if colour_correction < 0 else colour_correction)


class CausalSampler(io.ComfyNode):
    """Latents of a talking face, chunk by chunk."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_CausalSampler."""
        return schema(
            node_id="TM_CausalSampler",
            display_name="Causal Chunked Sampler",
            description="Denoises the video chunk by chunk, in the way the model was made for: sparse causal chunks with a cache, or "
            "whole clips that begin with the end of the one before. "
            "It starts when a preview, save or collect node pulls; what is sampled once is not sampled again.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                field(wires.Model, "model", tooltip="The model that draws."),
                field(wires.Portrait, "portrait", tooltip="The face to animate."),
                field(wires.Speaker, "speaker", tooltip="The sound, and when it is spoken."),
                field(
                    io.Int, "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
                    tooltip="The same seed and inputs give the same video, however it is shown or saved."),
                field(
                    io.Int, "steps", default=0, min=0, max=100, advanced=True,
                    tooltip="Denoising steps for each chunk. 0: as many as the model was made for. More is slower and rarely better."),
                field(
                    io.Conditioning, "positive", optional=True, tooltip="Open models only: the prompt, from CLIP Text Encode."),
                field(
                    io.Conditioning, "negative", optional=True, tooltip="Open models with text guidance only: what to avoid."),
                field(
                    io.ClipVisionOutput, "clip_vision_output", optional=True,
                    tooltip="Open models only: the portrait as CLIP Vision Encode sees it, which keeps who it is."),
                field(
                    io.Combo, "mode", options=list(MODES), default=devices.AUTO, optional=True, advanced=True,
                    tooltip="auto: as the model was made for. sparse_causal: chunks with a cache. bidirectional: overlapping clips."),
                field(
                    io.Combo, "cache", options=list(CACHES), default=devices.AUTO, optional=True, advanced=True,
                    tooltip="sparse_causal only. per_step: fastest. clean_rerun: one more evaluation a chunk, one cache for all steps. "
                    "recompute: so, with the portrait alone in sight."),
                *guidance_fields(),
            ],
            outputs=[
                wires.LatentStream.Output(
                    "latents", display_name="latent stream", tooltip="A stream of latents that nobody has computed yet."),
            ],
        )

    @classmethod
    def execute(
        cls, model: TalkingModel, portrait: talk.Portrait, speaker: talk.Speaker, seed: int, steps: int, positive: Any = None,
        negative: Any = None, clip_vision_output: Any = None, mode: str = devices.AUTO, cache: str = devices.AUTO,
        text_guidance: float = 0.0, audio_guidance: float = 0.0, colour_correction: float = -1.0,
    ) -> Any:
        """Describe the stream; nothing is sampled. InputError for a choice the model cannot follow, or a cache with no room."""
        choices = replace(
            guided(text_guidance, audio_guidance, colour_correction), mode=MODES[chosen("mode", mode, MODES)],
            cache=CACHES[chosen("cache", cache, CACHES)], steps=steps or None)
        check_room(model, settings(model.config, choices), cls.hidden.unique_id)
        prompt = talk.Prompt(
            text=encoders.prompt_of(positive, "positive"), negative=encoders.prompt_of(negative, "negative"),
            image=encoders.picture_tokens(clip_vision_output))
        built = talk.build_scene(model, portrait, speaker, choices=choices, prompt=prompt)
        return io.NodeOutput(talk.sample_stream(model, built, seed=seed))


def check_room(model: TalkingModel, sampler: SamplerConfig, node_id: str | None) -> None:
    """Say what the cache will take; InputError with what would fit where it has no room."""
    dit, config = model.dit, model.config
    room = devices.room_on(dit.compute_device)
    size = check_fits(config, sampler, dit.compute_dtype, room)
    if config.family is not None:
        place = f"{room / 2**30:.1f} GiB on {dit.compute_device}"
        running.tell(node_id, f"cache: {size.total / 2**30:.2f} GiB for a stream of any length, {place}")


class DecodeStream(io.ComfyNode):
    """Frames of a latent stream, decoded by a second worker while the first denoises."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_DecodeStream."""
        return schema(
            node_id="TM_DecodeStream",
            display_name="Disaggregated VAE Decode",
            description="Decodes chunks into frames in a worker of its own, on a device of its own, while the next chunk is denoised. "
            "Faces are drawn on the picture they came from, at its size.",
            inputs=[
                field(wires.LatentStream, "latents", tooltip="The stream of the sampler."),
                field(
                    io.Combo, "device", options=devices.offered(), default=devices.AUTO,
                    tooltip="Where frames are decoded. auto: where the model is. A second GPU decodes while the first denoises."),
                field(
                    io.Int, "queue_depth", default=2, min=1, max=16, advanced=True,
                    tooltip="Chunks that may wait between the two workers. More evens out hiccups and takes memory; 2 is enough."),
                field(
                    io.Boolean, "blinks", default=True, optional=True, advanced=True,
                    tooltip="Models of faces only: close the eyes now and then and let them glance, which they have not learned."),
                *framing_fields(),
                field(
                    io.Vae, "vae", optional=True,
                    tooltip="Open models only: another VAE of the same latents, as the fast taew2_1 or lighttaew2_1."),
            ],
            outputs=[
                wires.FrameStream.Output(
                    "frames", display_name="frame stream", tooltip="Frames that nobody has computed yet, for any number of sinks."),
            ],
        )

    @classmethod
    def execute(
        cls, latents: LatentStream, device: str, queue_depth: int, vae: Any = None, blinks: bool = True, framing: str = "picture",
        size: int = 0,
    ) -> Any:
        """Describe the stream; nothing is decoded. InputError for a VAE of other latents, or a size that is none."""
        check_options(framing=chosen("framing", framing, FRAMINGS), size=size or None)
        target = None if device == devices.AUTO else devices.named(device)
        if vae is not None and latents.decoder is not None and not isinstance(latents.decoder.vae, HostedAutoencoder):
            raise InputError("vae", "another VAE", "this model brings its own decoder", "leave it unconnected")
        other = None if vae is None else HostedAutoencoder(vae)
        return io.NodeOutput(talk.decode_stream(
            latents, device=target, queue_depth=queue_depth, vae=other, blinks=blinks, framing=FRAMINGS[framing], size=size or None))
