"""The two workers with real threads: order, bound, errors from either side, cancel, abandonment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch

from tm_core.errors import Cancelled
from tm_core.streaming import workers
from tm_core.streaming.cancel import CancelToken, LinkedToken
from tm_core.streaming.mailbox import Epoch
from tm_core.streaming.metrics import StreamMetrics
from tm_core.streaming.pipeline import FrameChunk, run_pipeline
from tm_core.streaming.sampler import LatentChunk
from tm_core.streaming.workers import WorkerConfig, to_uint8, to_worker

CPU = WorkerConfig(device=torch.device("cpu"))
Produce = Callable[[CancelToken], Generator[LatentChunk, None, None]]


class Source:
    """Chunks with their index as content; counts how far it got and may wait or fail at one of them."""

    def __init__(self, count: int, *, delay_s: float = 0.0, fail_at: int | None = None) -> None:
        self.count, self.delay_s, self.fail_at = count, delay_s, fail_at
        self.made = 0
        self.closed = False

    def __call__(self, token: CancelToken) -> Generator[LatentChunk, None, None]:
        try:
            for i in range(self.count):
                if i == self.fail_at:
                    raise RuntimeError("denoise failed")
                end = time.monotonic() + self.delay_s
                while time.monotonic() < end:  # steps of a chunk
                    token.check()
                    time.sleep(0.005)
                token.check()
                self.made = i + 1
                yield LatentChunk(index=i, latents=torch.full((1, 16, 3, 2, 2), float(i)))
        finally:
            self.closed = True


def decode(chunk: LatentChunk) -> FrameChunk:
    frames = np.full((12, 4, 4, 3), int(chunk.latents.mean()), np.uint8)
    return FrameChunk(index=chunk.index, frames=frames, pts=12 * chunk.index, time_base=Fraction(1, 25))


def failing_decode(chunk: LatentChunk) -> FrameChunk:
    if chunk.index == 2:
        raise ValueError("decode failed")
    return decode(chunk)


def run(produce: Produce, decoder: Callable[[LatentChunk], FrameChunk] = decode, **options: object) -> Generator[FrameChunk, None, None]:
    return run_pipeline(produce, decoder, denoise_on=CPU, decode_on=CPU, **options)  # type: ignore[arg-type]


def our_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tm-")]


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    yield
    assert our_threads() == []


def test_chunks_arrive_in_order_and_whole() -> None:
    chunks = list(run(Source(10)))
    assert [c.index for c in chunks] == list(range(10))
    assert [int(c.frames[0, 0, 0, 0]) for c in chunks] == list(range(10))
    assert [c.pts * c.time_base for c in chunks][:2] == [0, Fraction(12, 25)]


def test_denoising_and_decoding_run_at_the_same_time() -> None:
    def slow_decode(chunk: LatentChunk) -> FrameChunk:
        time.sleep(0.05)
        return decode(chunk)

    metrics = StreamMetrics(chunk_s=0.48, fps=25)
    list(run(Source(10, delay_s=0.05), slow_decode, metrics=metrics))
    assert metrics.elapsed_s < 0.8 * (metrics.denoise_s + metrics.decode_s)
    assert metrics.decode_hidden > 0.6
    assert metrics.chunks == 10 and metrics.frames == 120


@pytest.mark.parametrize("depth", [1, 2, 4], ids=lambda d: f"depth-{d}")
def test_a_slow_reader_bounds_what_is_sampled_ahead(depth: int) -> None:
    source = Source(100)
    stream = run(source, queue_depth=depth)
    next(stream)
    time.sleep(0.3)
    assert source.made <= 1 + 2 * depth + 2  # taken, both mailboxes, one in each worker's hands
    stream.close()  # type: ignore[attr-defined]


def test_an_error_of_the_denoiser_reaches_the_reader() -> None:
    with pytest.raises(RuntimeError, match="denoise failed"):
        list(run(Source(10, fail_at=3)))


def test_an_error_of_the_decoder_reaches_the_reader_and_stops_the_denoiser() -> None:
    source = Source(1000, delay_s=0.005)
    with pytest.raises(ValueError, match="decode failed"):
        list(run(source, failing_decode))
    assert source.made < 1000 and source.closed


def test_cancel_stops_in_the_middle_of_a_chunk() -> None:
    token = CancelToken()
    source = Source(100, delay_s=30.0)
    threading.Timer(0.1, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        list(run(source, cancel=token))
    assert time.monotonic() - start < 2.0 and source.closed


def test_what_poll_raises_stops_both_workers() -> None:
    source = Source(100, delay_s=30.0)
    start = time.monotonic()

    def interrupted() -> None:
        if time.monotonic() - start > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(source, poll=interrupted))
    assert time.monotonic() - start < 2.0 and source.closed


def test_a_reader_that_leaves_stops_both_workers() -> None:
    source = Source(1000, delay_s=0.01)
    for chunk in run(source):
        if chunk.index == 2:
            break
    time.sleep(0.05)
    assert source.closed and source.made < 20


def test_abandoning_does_not_cancel_the_readers_own_token() -> None:
    token = CancelToken()
    stream = run(Source(100, delay_s=0.01), cancel=token)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not token.cancelled
    child = LinkedToken(token)
    token.cancel()
    assert child.cancelled


def test_nothing_starts_before_the_first_pull() -> None:
    source = Source(3)
    stream = run(source)
    time.sleep(0.05)
    assert source.made == 0 and our_threads() == []
    assert len(list(stream)) == 3


def test_frames_become_bytes_by_rounding() -> None:
    x = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2]).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    frames = to_uint8(x)
    assert frames.shape == (5, 2, 2, 3) and frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def _threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_overlapping_pipelines_leave_the_process_its_threads() -> None:
    one = WorkerConfig(device=torch.device("cpu"), threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first = run_pipeline(Source(20), decode, denoise_on=one, decode_on=one)
        second = run_pipeline(Source(20), decode, denoise_on=one, decode_on=one)
        next(first)
        assert _threads_of_a_new_thread() == 3, "a thread born meanwhile computes as the process was told"
        next(second)
        first.close()
        second.close()
        assert (torch.get_num_threads(), _threads_of_a_new_thread()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_a_worker_computes_with_its_own_threads() -> None:
    seen: list[int] = []

    def look(chunk: LatentChunk) -> FrameChunk:
        seen.append(torch.get_num_threads())
        return decode(chunk)

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        two = WorkerConfig(device=torch.device("cpu"), threads=2)
        list(run_pipeline(Source(2), look, denoise_on=two, decode_on=two))
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_what_was_made_before_an_interruption_never_comes_out() -> None:
    epoch, begun = Epoch(), threading.Event()

    def produce(token: CancelToken) -> Generator[LatentChunk, None, None]:
        while not token.cancelled:
            now = epoch.number
            begun.set()
            time.sleep(0.01)
            yield LatentChunk(index=now, latents=torch.full((1,), float(now)), epoch=now)

    stream = run(produce, queue_depth=4, epoch=epoch)
    assert [next(stream).epoch for _ in range(3)] == [0, 0, 0]
    time.sleep(0.2)  # both mailboxes are full, and each worker holds one more
    for number in (1, 2):
        epoch.advance()
        for _ in range(12):
            chunk = next(stream)
            assert (chunk.epoch, chunk.index, int(chunk.frames[0, 0, 0, 0])) == (number, number, number)
    stream.close()


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU and writes down how it was copied."""

    copies: ClassVar[list[tuple[str, bool]]] = []

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def record_stream(self, stream: object) -> None:
        pass

    def to(self, *, device: torch.device, dtype: torch.dtype, non_blocking: bool = False) -> torch.Tensor:  # type: ignore[override]
        self.copies.append((device.type, non_blocking))
        return torch.zeros(1, dtype=dtype)


class FakeStream:
    """A CUDA stream that writes down what it waits for."""

    def __init__(self) -> None:
        self.waited: list[object] = []

    def wait_event(self, event: object) -> None:
        self.waited.append(event)


def test_latents_cross_to_the_cpu_whole_and_after_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to the CPU that does not block returns before it lands; without the event the decoder may read too early."""
    stream, event = FakeStream(), object()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
    x = torch.zeros(1).as_subclass(OnCuda)
    OnCuda.copies.clear()
    to_worker(x, torch.device("cpu"), torch.float32, event)
    to_worker(x, torch.device("cuda", 1), torch.float32, event)
    assert OnCuda.copies == [("cpu", False), ("cuda", True)]
    assert stream.waited == [event, event]


def test_a_role_has_one_stream_of_a_gpu_in_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator keeps a pool for each stream: a new one a run strands the run before's memory."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(workers, "_STREAMS", {})
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    made = [workers.worker_stream(first, "denoise"), workers.worker_stream(first, "decode"), workers.worker_stream(second, "denoise")]
    assert len(set(map(id, made))) == 3
    assert workers.worker_stream(first, "denoise") is made[0] and workers.worker_stream(second, "denoise") is made[2]
