"""Many clips: every frame once and in order, however a clip is led, and nothing that grows (`bench memory` has minutes of them)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.streaming.test_clip_sampler import SAMPLER, shown
from tests.streaming.test_sampler import CONFIG, random_model
from tm_core.config import ClipConfig, DiTConfig, SamplerConfig, tiny
from tm_core.model.talking import AudioTokens, TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.clip_sampler import ClipSampler, ClipState
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.sampler import LatentChunk, Scene, SpeakerInput
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline

CLIPS, MEASURED = 40, (2, 5, 10)
LEADS = [ClipConfig(latents=4), ClipConfig(latents=4, lead="given"), ClipConfig(latents=4, motion_latents=0)]
by_lead = pytest.mark.parametrize("clip", LEADS, ids=["clean", "given", "one picture"])


class CountingNetwork:
    """Paints what it hears on every latent."""

    cfg = DiTConfig(dim=96, ffn_dim=96, num_heads=2, num_layers=1, text_dim=4, text_len=1)
    compute_device, compute_dtype = torch.device("cpu"), torch.float32

    def forward_x0(self, x: Tensor, level: Tensor, *, audio: Tensor, **_: Any) -> Tensor:
        return audio.view(1, 1, -1, 1, 1).expand_as(x).clone()


class CountingListener:
    def project(self, windows: Tensor, speaking: Tensor, like: Tensor) -> AudioTokens:
        return AudioTokens(windows[:, None, None])


class CountingAutoencoder(torch.nn.Module):
    """A latent is the number of its last frame; a frame carries its number n in red (n % 256) and green (n // 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def open_decoder(self, reference: Tensor | None) -> None: ...

    def open_encoder(self) -> None: ...

    def decode(self, latents: Tensor, state: None) -> tuple[Tensor, None]:
        last = latents[0, 0, :, 0, 0].round()
        number = torch.cat([last[:1], (last[1:, None] + torch.arange(-3, 1)).flatten()])
        colours = torch.stack([number % 256, number // 256, 0 * number], 1) / 255
        return colours[:, :, None, None].expand(-1, -1, 16, 16), None

    def encode(self, frames: Tensor, state: None) -> tuple[Tensor, None]:
        number = (255 * frames[:, 0, 0, 0]).round() + 256 * (255 * frames[:, 1, 0, 0]).round()
        return torch.cat([number[:1], number[4::4]])[None, None, :, None, None].expand(1, 16, -1, 2, 2), None


class Source:
    def __init__(self, sampler: ClipSampler, scene: Scene) -> None:
        self.sampler, self.scene = sampler, scene

    def open(self) -> ClipState:
        return self.sampler.open(self.scene, 3)

    def step(self, state: ClipState, cancel: CancelToken) -> tuple[LatentChunk, ClipState]:
        return self.sampler.step(state, cancel)


@by_lead
def test_every_frame_is_shown_once_and_in_order(clip: ClipConfig) -> None:
    network: Any = CountingNetwork()
    vae: Any = CountingAutoencoder()
    model = TalkingModel(config=replace(tiny(), dit=network.cfg), dit=network, projector=CountingListener(), vae=vae)
    sampler = ClipSampler(model, SamplerConfig(sigmas=(1.0, 0.5), clip=clip))
    speaker = SpeakerInput(
        windows=lambda latents: 4.0 * torch.tensor(latents), mask=torch.ones(1), speaking=lambda latents: torch.ones(len(latents)) > 0)
    timeline = Timeline(fps=Fraction(25), chunk_latents=clip.latents - clip.repeated_latents, first_latents=clip.latents)
    frames = timeline.frames_of_chunk(CLIPS - 1).stop - 2  # the sound ends within the last clip
    meta = StreamMeta(width=16, height=16, num_frames=frames, timeline=timeline, audio_s=frames / 25)
    decoder = DecoderInput(vae=vae, reference=torch.zeros(3, 16, 16), motion_frames=sampler.motion_frames)
    cpu = WorkerConfig(device=torch.device("cpu"), threads=1)
    scene = Scene(reference=torch.zeros(16, 2, 2), speakers=(speaker,), frames=frames)
    chunks = list(DecodedStream(LatentStream(Source(sampler, scene), meta, decoder), decoder, denoise_on=cpu, decode_on=cpu))
    shown_numbers = np.concatenate([c.frames[:, 0, 0, 0] + 256 * c.frames[:, 0, 0, 1].astype(int) for c in chunks])
    assert len(chunks) == CLIPS and shown_numbers.tolist() == list(range(frames))
    assert [c.pts for c in chunks] == np.cumsum([0, *(len(c.frames) for c in chunks[:-1])]).tolist()


def live_bytes() -> int:
    """Memory of all tensors there are, each storage once."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) in (Tensor, torch.nn.Parameter)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def memory_by_clip(sampler: ClipSampler) -> Iterator[int]:
    """After some clips: what one left behind would show after the next."""
    state = sampler.open(shown(), 3)
    for index in range(1, MEASURED[-1] + 1):
        state = sampler.step(state)[1]
        if index in MEASURED:
            yield live_bytes()


@by_lead
def test_memory_does_not_grow_with_the_stream(clip: ClipConfig) -> None:
    torch.manual_seed(1)
    sampler = ClipSampler(random_model(CONFIG), replace(SAMPLER, sigmas=(1.0,), clip=clip, colour_correction=0.5))
    used = list(memory_by_clip(sampler))
    assert len(used) == 3 and len(set(used)) == 1 and used[0] > 10**6, used
