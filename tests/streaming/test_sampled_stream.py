"""Handles and pipeline over the real sampler and the real autoencoder, untrained."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tm_core.config import DiTConfig, ModelConfig, VAEConfig, tiny
from tm_core.errors import Cancelled
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.sampler import ChunkedSampler, LatentChunk, SamplerState, Scene, SpeakerInput
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline
from tm_core.vae.tiny import TinyVAE

FRAMES = 60
TIMELINE = Timeline(fps=Fraction(25))
CPU = WorkerConfig(device=torch.device("cpu"), threads=1)


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    torch.manual_seed(0)
    cfg: ModelConfig = replace(tiny(), width=64, height=64)
    dit: DiTConfig = replace(cfg.dit, num_layers=2)
    assert cfg.projector is not None
    return TalkingModel(
        config=replace(cfg, dit=dit), dit=TalkingDiT(dit).eval(), projector=AudioProjector(cfg.projector).eval(),
        vae=TinyVAE(cfg.vae or VAEConfig()).eval())


class SamplerSource:
    """The sampler with one scene; can cancel itself in the middle of a chunk."""

    def __init__(self, model: TalkingModel) -> None:
        self.sampler = ChunkedSampler(model, model.config.sampler)
        sound = torch.randn(400, 80, 80, generator=torch.Generator().manual_seed(7))
        speaker = SpeakerInput(
            windows=lambda latents: sound[latents.start : latents.stop], mask=torch.ones(16),
            speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
        reference = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(8))
        self.scene = Scene(reference=reference, speakers=(speaker,), frames=FRAMES)
        self.cancel_in: int | None = None

    def open(self) -> SamplerState:
        return self.sampler.open(self.scene, 11)

    def step(self, state: SamplerState, cancel: CancelToken) -> tuple[LatentChunk, SamplerState]:
        if state.chunk == self.cancel_in:
            self.cancel_in = None
            cancel = CancelsAtSecondLook()
        return self.sampler.step(state, cancel)


class CancelsAtSecondLook(CancelToken):
    """Lets the first denoising step through and stops before the second."""

    looks = 0

    def check(self) -> None:
        self.looks += 1
        if self.looks == 2:
            self.cancel()
        super().check()


def latent_stream(source: SamplerSource, model: TalkingModel) -> LatentStream:
    meta = StreamMeta(width=64, height=64, num_frames=FRAMES, timeline=TIMELINE, audio_s=FRAMES / 25)
    reference = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(9))
    return LatentStream(source, meta, DecoderInput(vae=model.vae, reference=reference))


def test_a_stream_cancelled_between_two_steps_ends_up_with_the_same_latents(model: TalkingModel) -> None:
    whole = [c.latents for c in latent_stream(SamplerSource(model), model)]
    source = SamplerSource(model)
    source.cancel_in = 3
    stream = latent_stream(source, model)
    with pytest.raises(Cancelled):
        list(stream)
    again = [c.latents for c in stream]
    assert len(again) == len(whole) == TIMELINE.num_chunks(FRAMES)
    for a, b in zip(again, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert stream.sampled == len(whole) + 3


def test_frames_come_out_of_both_workers_and_repeat_exactly(model: TalkingModel) -> None:
    stream = latent_stream(SamplerSource(model), model)
    assert stream.decoder is not None
    frames = DecodedStream(stream, stream.decoder, denoise_on=CPU, decode_on=CPU)
    metrics = frames.new_metrics()
    first = np.concatenate([c.frames for c in frames.chunks(metrics=metrics)])
    assert first.shape == (FRAMES, 64, 64, 3)
    assert np.array_equal(first, np.concatenate([c.frames for c in frames]))
    assert metrics.denoise_s > 0 and metrics.decode_s > 0 and stream.sampled == frames.meta.num_chunks
