"""A clip decoded once for the sampler and for whoever shows it: the same frames as decoded twice, in any order."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.streaming.test_clip_sampler import CONFIG, PICTURE, SAMPLER, Source
from tests.streaming.test_sampler import random_model
from tm_core.model.talking import TalkingModel
from tm_core.streaming.clip_sampler import ClipSampler
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.shared_decode import SharedDecode
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    torch.manual_seed(1)
    return random_model(CONFIG)


class Counted:
    """The model's autoencoder, with a look at what is decoded and by how many at a time."""

    def __init__(self, model: TalkingModel, wait_s: float = 0.0) -> None:
        self.vae: Any = model.vae
        self.decodes = self.at_once = self.most = 0
        self.wait_s = wait_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def decode(self, latents: Tensor, state: Any) -> Any:
        self.decodes, self.at_once = self.decodes + 1, self.at_once + 1
        self.most = max(self.most, self.at_once)
        time.sleep(self.wait_s)
        try:
            return self.vae.decode(latents, state)
        finally:
            self.at_once -= 1


def stream_of(model: TalkingModel, vae: Any, *, shared: bool) -> DecodedStream:
    sampler = ClipSampler(replace(model, vae=vae), SAMPLER)
    timeline = Timeline(fps=Fraction(25), chunk_latents=2, first_latents=4)
    meta = StreamMeta(width=64, height=64, num_frames=30, timeline=timeline, audio_s=1.2)
    decoder = DecoderInput(vae=vae, reference=PICTURE, motion_frames=sampler.motion_frames, shared=sampler.decoded if shared else None)
    cpu = WorkerConfig(device=torch.device("cpu"), threads=1)
    return DecodedStream(LatentStream(Source(sampler), meta, decoder), decoder, denoise_on=cpu, decode_on=cpu)


def frames_of(stream: DecodedStream) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in stream])


def test_four_clips_are_decoded_four_times_and_look_the_same(model: TalkingModel) -> None:
    """Apart: four to show, three to lead."""
    together, apart = Counted(model), Counted(model)
    shared, alone = stream_of(model, together, shared=True), stream_of(model, apart, shared=False)
    frames = frames_of(shared)
    assert np.array_equal(frames, frames_of(alone)) and len(frames) == 30
    assert (together.decodes, apart.decodes) == (4, 7)
    assert np.array_equal(frames_of(shared), frames) and together.decodes == 8  # the second look reads latents from the disk


@pytest.mark.parametrize("first", ["shown", "leading"])
def test_either_may_come_first_and_nobody_keeps_a_whole_clip(model: TalkingModel, first: str) -> None:
    vae = Counted(model)
    both = SharedDecode(vae, 5)
    latents = torch.randn(1, 16, 4, 8, 8)
    with torch.inference_mode():
        both.sampled(latents)
        wanted = model.vae.decode(latents, model.vae.open_decoder(PICTURE))[0]  # type: ignore[union-attr]
        for name in (first, *({"shown", "leading"} - {first})):
            frames = getattr(both, name)(latents, PICTURE)
            assert torch.equal(frames, wanted if name == "shown" else wanted[-5:])
    assert vae.decodes == 1 and both._all is None and both._last is not None
    assert both._last.untyped_storage().nbytes() == wanted[-5:].nbytes


def test_two_at_the_same_time_decode_once(model: TalkingModel) -> None:
    vae = Counted(model, wait_s=0.1)
    both, latents, made = SharedDecode(vae, 5), torch.randn(1, 16, 4, 8, 8), {}
    both.sampled(latents)

    def ask(name: str) -> None:
        with torch.inference_mode():
            made[name] = getattr(both, name)(latents, PICTURE)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("shown", "leading")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (vae.decodes, vae.most) == (1, 1) and torch.equal(made["shown"][-5:], made["leading"])


def test_equal_numbers_in_another_tensor_are_another_clip(model: TalkingModel) -> None:
    vae = Counted(model)
    both, latents = SharedDecode(vae, 5), torch.randn(1, 16, 4, 8, 8)
    with torch.inference_mode():
        assert torch.equal(both.shown(latents, PICTURE), both.shown(latents.clone(), PICTURE))
    assert vae.decodes == 2


def test_a_second_reader_leaves_what_leads_the_sampler(model: TalkingModel) -> None:
    """It takes clips from disk: each of its copies pushed out the clip, which was then decoded again to lead the next."""
    vae = Counted(model)
    both, latents = SharedDecode(vae, 5), torch.randn(1, 16, 4, 8, 8)
    both.sampled(latents)
    with torch.inference_mode():
        shown = both.shown(latents, PICTURE)
        assert torch.equal(both.shown(latents.clone(), PICTURE), shown)
        assert torch.equal(both.leading(latents, PICTURE), shown[-5:])
    assert vae.decodes == 2  # once for each reader


def test_two_readers_of_one_stream_see_the_same(model: TalkingModel) -> None:
    vae = Counted(model)
    stream = stream_of(model, vae, shared=True)
    readers = [stream.chunks(), stream.chunks()]
    made = [np.concatenate([a.frames, b.frames]) for a, b in zip(*readers, strict=True)]
    assert len(made) == 4 and all(np.array_equal(*np.split(pair, 2)) for pair in made)
    assert vae.decodes == 8
