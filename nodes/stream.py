"""TM_CausalSampler and TM_DecodeStream: the two halves of a stream. Neither computes: a sink pulls."""

from __future__ import annotations

from typing import Any

from ..tm_core import app
from ..tm_core.streaming.handles import LatentStream
from ..tm_core.weights.loading import TalkingModel
from . import compat, wires
from .compat import io

MAX_SEED = 2**53 - 1  # the largest whole number a browser keeps exactly


class CausalSampler(io.ComfyNode):
    """Latents of a talking face, chunk by chunk."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_CausalSampler."""
        return compat.schema(
            node_id="TM_CausalSampler",
            display_name="Causal Chunked Sampler",
            description="Denoises the video chunk by chunk, each looking back at the one before and at the portrait. "
            "It starts when a preview, save or collect node pulls; what is sampled once is not sampled again.",
            inputs=[
                compat.field(wires.Model, "model", tooltip="The model that draws."),
                compat.field(wires.Portrait, "portrait", tooltip="The face to animate."),
                compat.field(wires.Speaker, "speaker", tooltip="The sound, and when it is spoken."),
                compat.field(
                    io.Int, "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
                    tooltip="The same seed and inputs give the same video, however it is shown or saved."),
                compat.field(
                    io.Int, "steps", default=0, min=0, max=100, advanced=True,
                    tooltip="Denoising steps for each chunk. 0: as many as the model was made for. More is slower and rarely better."),
            ],
            outputs=[
                wires.LatentStream.Output(
                    "latents", display_name="latent stream", tooltip="A stream of latents that nobody has computed yet."),
            ],
        )

    @classmethod
    def execute(cls, model: TalkingModel, portrait: app.Subject, speaker: app.Speech, seed: int, steps: int) -> Any:
        """Describe the stream; nothing is sampled."""
        built = app.build_scene(model, portrait, speaker)
        return io.NodeOutput(app.sample_stream(model, built, seed=seed, steps=steps or None))


class DecodeStream(io.ComfyNode):
    """Frames of a latent stream, decoded by a second worker while the first denoises."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_DecodeStream."""
        return compat.schema(
            node_id="TM_DecodeStream",
            display_name="Disaggregated VAE Decode",
            description="Decodes chunks into frames in a worker of its own, on a device of its own, while the next chunk is denoised.",
            inputs=[
                compat.field(wires.LatentStream, "latents", tooltip="The stream of the sampler."),
                compat.field(
                    io.Combo, "device", options=compat.devices(), default=compat.AUTO,
                    tooltip="Where frames are decoded. auto: where the model is. A second GPU decodes while the first denoises."),
                compat.field(
                    io.Int, "queue_depth", default=2, min=1, max=16, advanced=True,
                    tooltip="Chunks that may wait between the two workers. More evens out hiccups and takes memory; 2 is enough."),
            ],
            outputs=[
                wires.FrameStream.Output(
                    "frames", display_name="frame stream", tooltip="Frames that nobody has computed yet, for any number of sinks."),
            ],
        )

    @classmethod
    def execute(cls, latents: LatentStream, device: str, queue_depth: int) -> Any:
        """Describe the stream; nothing is decoded."""
        target = None if device == compat.AUTO else compat.device_named(device)
        return io.NodeOutput(app.decode_stream(latents, device=target, queue_depth=queue_depth))
