"""Stream handles: lazy, re-iterable, sampled once, nothing in memory, clean after cancel and failure."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tm_core.config import VAEConfig
from tm_core.errors import Cancelled, InputError
from tm_core.model.talking import WeightNeeds
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.metrics import current_rss_mb
from tm_core.streaming.pipeline import FrameChunk, run_pipeline
from tm_core.streaming.sampler import LatentChunk
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline
from tm_core.vae.tiny import TinyVAE

TIMELINE = Timeline(fps=Fraction(25))
CPU = WorkerConfig(device=torch.device("cpu"))


class Counting:
    """A source whose state is damaged by a cancelled step, as caches written in place are."""

    def __init__(self, *, side: int = 4, step_s: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        self.side, self.step_s, self.dtype = side, step_s, dtype
        self.opened = self.stepped = 0
        self.fail_at: int | None = None
        self.inside = threading.Lock()

    def open(self) -> dict[str, object]:
        self.opened += 1
        return {"next": 0, "whole": True}

    def step(self, state: dict[str, object], cancel: CancelToken) -> tuple[LatentChunk, dict[str, object]]:
        assert self.inside.acquire(blocking=False), "two sinks sample at the same time"
        try:
            assert state["whole"], "a damaged state was used"
            index = state["next"]
            assert isinstance(index, int)
            state["whole"] = False
            end = time.monotonic() + self.step_s
            while time.monotonic() < end:
                cancel.check()
                time.sleep(0.002)
            cancel.check()
            if index == self.fail_at:
                self.fail_at = None
                raise RuntimeError("out of memory")
            state.update(next=index + 1, whole=True)
            self.stepped += 1
            return LatentChunk(index=index, latents=content(index, self.side, self.dtype)), state
        finally:
            self.inside.release()


def content(index: int, side: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn((1, 16, 3, side, side), generator=torch.Generator().manual_seed(index)).to(dtype)


def stream_of(source: Counting, chunks: int = 6) -> LatentStream:
    frames = TIMELINE.frames_of_chunk(chunks - 1).stop
    meta = StreamMeta(width=32, height=32, num_frames=frames, timeline=TIMELINE, audio_s=frames / 25)
    return LatentStream(source, meta)


def assert_whole(chunks: list[LatentChunk], count: int = 6) -> None:
    assert [c.index for c in chunks] == list(range(count))
    for chunk in chunks:
        assert torch.equal(chunk.latents, content(chunk.index, chunk.latents.shape[-1], chunk.latents.dtype))


def test_nothing_is_sampled_before_a_sink_pulls() -> None:
    source = Counting()
    stream = stream_of(source)
    iterator = stream.chunks()
    assert (source.opened, source.stepped) == (0, 0)
    next(iterator)
    assert (source.opened, source.stepped) == (1, 1)


def test_a_stream_that_is_all_sampled_needs_no_transformer(vae: TinyVAE) -> None:
    """So that it can be decoded beside a model that is patched in another way, or needs the room."""
    model: Any = object()
    meta = stream_of(Counting()).meta
    stream = LatentStream(Counting(), meta, needs=lambda v: WeightNeeds(model=model, autoencoder=v, reserve=7))
    sampled = stream.chunks()
    next(sampled)
    assert stream.needs(vae) == [WeightNeeds(model=model, autoencoder=vae, reserve=7)]
    assert_whole(list(stream))
    assert stream.needs(vae) == [WeightNeeds(model=model, autoencoder=vae, transformer=False)]
    stream.release()
    assert stream.needs(vae) == [WeightNeeds(model=model, autoencoder=vae, reserve=7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_iterating_again_reads_the_same_bits_and_samples_nothing(dtype: torch.dtype) -> None:
    source = Counting(dtype=dtype)
    stream = stream_of(source)
    for _ in range(3):
        assert_whole(list(stream))
    assert (source.opened, source.stepped, stream.sampled) == (1, 6, 6)


def test_two_sinks_at_once_share_one_sampling_run() -> None:
    source = Counting(step_s=0.02)
    stream = stream_of(source, 12)
    results: list[list[LatentChunk]] = []
    sinks = [threading.Thread(target=lambda: results.append(list(stream))) for _ in range(3)]
    for sink in sinks:
        sink.start()
    for sink in sinks:
        sink.join(20)
    assert len(results) == 3
    for result in results:
        assert_whole(result, 12)
    assert source.stepped == 12


def test_a_sink_that_leaves_between_chunks_costs_the_next_one_nothing() -> None:
    source = Counting()
    stream = stream_of(source)
    for chunk in stream:
        if chunk.index == 2:
            break
    assert_whole(list(stream))
    assert (source.opened, source.stepped) == (1, 6)


def test_after_a_cancelled_step_the_stream_runs_again() -> None:
    source = Counting(step_s=0.05)
    stream = stream_of(source)
    token = CancelToken()
    iterator = stream.chunks(token)
    next(iterator)
    next(iterator)
    threading.Timer(0.02, token.cancel).start()
    with pytest.raises(Cancelled):
        next(iterator)
    assert stream.available == 2
    source.step_s = 0.0
    assert_whole(list(stream))
    assert source.opened == 2


def test_cancelling_one_sink_leaves_the_other_whole() -> None:
    source = Counting(step_s=0.03)
    stream = stream_of(source, 10)
    token = CancelToken()
    kept: list[list[LatentChunk]] = []
    ended = threading.Event()

    def cancelled_sink() -> None:
        with pytest.raises(Cancelled):
            list(stream.chunks(token))
        ended.set()

    threads = [threading.Thread(target=cancelled_sink), threading.Thread(target=lambda: kept.append(list(stream)))]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    token.cancel()
    for thread in threads:
        thread.join(20)
    assert ended.is_set()
    assert_whole(kept[0], 10)


def test_after_a_failure_the_stream_runs_again() -> None:
    source = Counting()
    source.fail_at = 3
    stream = stream_of(source)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream)
    assert_whole(list(stream))


def test_release_gives_the_disk_back_and_samples_anew() -> None:
    source = Counting()
    stream = stream_of(source)
    list(stream)
    stream.release()
    assert stream.available == 0
    assert_whole(list(stream))
    assert source.stepped == 12


def test_an_interrupt_takes_the_samplers_state_along() -> None:
    """Its caches are gigabytes on a GPU that a host cannot see; the worker may wait in `put` when it is told to stop."""
    source = Counting()
    stream = stream_of(source, 40)
    decoded = run_pipeline(stream.chunks, shown, denoise_on=CPU, decode_on=CPU, queue_depth=1)
    next(decoded)
    time.sleep(0.2)  # mailboxes are full
    decoded.close()
    kept = stream.available
    assert 0 < kept < 40 and not stream.holds_state
    assert_whole(list(stream), 40)
    assert source.opened == 2 and source.stepped == 40 + kept


def test_while_another_sink_pulls_the_state_stays() -> None:
    source = Counting()
    stream = stream_of(source, 12)
    other, token = stream.chunks(), CancelToken()
    next(other)
    left = stream.chunks(token)
    next(left)
    token.cancel()
    left.close()
    assert stream.holds_state
    assert_whole([LatentChunk(index=0, latents=content(0)), *other], 12)
    assert source.stepped == 12 and not stream.holds_state


def test_release_does_not_wait_for_a_step() -> None:
    source = Counting(step_s=1.0)
    stream = stream_of(source, 3)
    sampling = threading.Thread(target=lambda: next(stream.chunks()))
    sampling.start()
    time.sleep(0.1)
    began = time.monotonic()
    stream.release()
    assert time.monotonic() - began < 0.5
    sampling.join()
    assert not stream.holds_state
    source.step_s = 0.0
    assert_whole(list(stream), 3)


def shown(chunk: LatentChunk) -> FrameChunk:
    return FrameChunk(index=chunk.index, frames=np.zeros((1, 1, 1, 3), np.uint8), pts=chunk.index, time_base=Fraction(1, 25))


def test_release_in_the_middle_of_an_iteration_does_no_harm() -> None:
    stream = stream_of(Counting())
    iterator = stream.chunks()
    first = [next(iterator), next(iterator), next(iterator)]
    stream.release()
    assert_whole([*first, *iterator])
    assert_whole(list(stream))


def _open_spools() -> list[str]:
    folder = Path("/proc/self/fd")
    links = [os.readlink(p) for p in folder.iterdir() if p.exists() or p.is_symlink()]
    return [link for link in links if str(tempfile.gettempdir()) in link and "deleted" in link]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see open files")
def test_the_spool_has_no_name_and_goes_with_the_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = stream_of(Counting())
    list(stream)
    assert list(tmp_path.iterdir()) == []
    assert len(_open_spools()) == 1
    del stream
    gc.collect()
    assert _open_spools() == []


def test_memory_does_not_grow_with_the_stream() -> None:
    source = Counting(side=64)  # 786 kB a chunk
    stream = stream_of(source, 200)
    iterator = iter(stream)
    for _ in range(20):
        next(iterator)
    before = current_rss_mb()
    for _ in iterator:
        pass
    assert current_rss_mb() - before < 30  # 140 MB went through


def test_a_full_disk_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, the device that is always full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))
    source = Counting()
    stream = stream_of(source)
    with pytest.raises(InputError, match="TMPDIR") as caught:
        list(stream)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    stream.release()
    assert_whole(list(stream))


# -- frames -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    return TinyVAE(VAEConfig()).eval()


def frame_stream(vae: TinyVAE, frames: int, source: Counting | None = None, depth: int = 2) -> DecodedStream:
    meta = StreamMeta(width=32, height=32, num_frames=frames, timeline=TIMELINE, audio_s=frames / 25)
    decoder = DecoderInput(vae=vae, reference=torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return DecodedStream(
        LatentStream(source or Counting(), meta, decoder), decoder, denoise_on=CPU, decode_on=CPU, queue_depth=depth)


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 21, 22, 25, 194], ids=lambda n: f"{n}-frames")
def test_the_video_is_as_long_as_the_sound(vae: TinyVAE, frames: int) -> None:
    pts = 0
    for chunk in frame_stream(vae, frames):
        assert chunk.pts == pts and chunk.time_base == Fraction(1, 25)
        assert chunk.frames.dtype == np.uint8 and chunk.frames.shape[1:] == (32, 32, 3)
        pts += len(chunk.frames)
    assert pts == frames


def test_decoding_twice_gives_the_same_pixels_and_samples_once(vae: TinyVAE) -> None:
    source = Counting()
    stream = frame_stream(vae, 40, source)
    first = np.concatenate([c.frames for c in stream])
    again = np.concatenate([c.frames for c in stream])
    assert np.array_equal(first, again)
    assert source.stepped == 4


def test_streamed_frames_equal_one_decode_of_all_latents(vae: TinyVAE) -> None:
    stream = frame_stream(vae, 33)
    latents = torch.cat([content(i) for i in range(3)], dim=2)
    assert stream.latents.decoder is not None
    with torch.inference_mode():
        whole, _ = vae.decode(latents, vae.open_decoder(stream.latents.decoder.reference))
    expected = (whole.clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    streamed = np.concatenate([c.frames for c in stream]).astype(np.float32)
    assert np.abs(streamed - expected[:33]).max() <= 0.51


def test_a_frame_stream_goes_on_after_a_cancel(vae: TinyVAE) -> None:
    stream = frame_stream(vae, 100, Counting(step_s=0.02))
    token = CancelToken()

    def drain(chunks: Iterator[object]) -> None:
        for _ in chunks:
            token.cancel()

    with pytest.raises(Cancelled):
        drain(stream.chunks(cancel=token))
    assert sum(len(c.frames) for c in stream) == 100


def test_a_queue_without_room_is_refused(vae: TinyVAE) -> None:
    with pytest.raises(InputError, match="queue_depth"):
        frame_stream(vae, 10, depth=0)


def test_meta_says_what_collecting_needs(vae: TinyVAE) -> None:
    meta = frame_stream(vae, 250).meta
    assert meta.collected_bytes == 250 * 32 * 32 * 3 * 4
    assert (meta.num_chunks, meta.duration_s, meta.chunk_s) == (22, 10.0, 0.48)
