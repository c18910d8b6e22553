"""Two workers joined by a mailbox: one denoises, one decodes, the caller's thread takes frames.

Each worker has its own thread, device and (on CUDA) stream. Errors of either worker surface at the caller;
the caller's cancel, error or loss of interest stops both workers, which are joined before the generator
ends. Non-goals: what a chunk is made of (sampler), keeping chunks (handles). Paper section 4
(disaggregation of DiT and VAE). Shapes: F latents, T frames.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from .cancel import CancelToken
from .mailbox import Closed, Mailbox
from .metrics import StreamMetrics
from .sampler import LatentChunk

log = logging.getLogger(__name__)

Poll = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class FrameChunk:
    """Frames (T, H, W, 3) uint8 of chunk `index`; the first is shown at pts * time_base seconds."""

    index: int
    frames: np.ndarray
    pts: int
    time_base: Fraction


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Where a worker computes; `threads` of the CPU (None: as many as torch was told)."""

    device: torch.device
    threads: int | None = None


class LinkedToken(CancelToken):
    """Cancelled by itself or by its parent; cancelling it leaves the parent alone."""

    def __init__(self, parent: CancelToken | None) -> None:
        super().__init__()
        self._parent = parent

    @property
    def cancelled(self) -> bool:
        """True once this token or its parent was cancelled."""
        return super().cancelled or (self._parent is not None and self._parent.cancelled)


@contextmanager
def worker_context(config: WorkerConfig) -> Iterator[None]:
    """A thread's own share of the machine: threads of the CPU, or a side stream of its GPU."""
    if config.device.type == "cpu" and config.threads is not None:
        torch.set_num_threads(config.threads)  # OpenMP keeps this number per calling thread
    with torch.inference_mode():
        if config.device.type != "cuda":
            yield
            return
        with torch.cuda.device(config.device):
            stream = torch.cuda.Stream(config.device)
            stream.wait_stream(torch.cuda.current_stream(config.device))  # weights and inputs made there
            with torch.cuda.stream(stream):
                yield


def to_host(x: Tensor) -> Tensor:
    """A copy in host memory; on CUDA through pinned memory, waiting for this worker's stream alone."""
    if x.device.type != "cuda":
        return x.detach().to("cpu")
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x.detach(), non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(x.device))
    done.synchronize()
    return host


def to_worker(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`x` on the device of the calling worker, safe against reuse of its memory by the worker it came from."""
    if x.device.type == "cuda":
        x.record_stream(torch.cuda.current_stream(x.device))
    return x.to(device=device, dtype=dtype, non_blocking=True)


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) in 0..1 -> (T, H, W, 3) uint8 in host memory."""
    levels = frames.float().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
    return to_host(levels.permute(0, 2, 3, 1).contiguous()).numpy()


def _denoise_worker(
    produce: Callable[[CancelToken], Iterator[LatentChunk]], out: Mailbox[LatentChunk], config: WorkerConfig,
    token: CancelToken, metrics: StreamMetrics | None,
) -> None:
    try:
        with worker_context(config):
            chunks = produce(token)
            while True:
                with metrics.denoising() if metrics else nullcontext():
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                token.check()
                out.put(chunk)
        out.finish()
    except Closed:  # the decoder has stopped and says why itself
        out.finish()
    except BaseException as error:  # every error belongs to the caller's thread
        out.finish(error)


def _decode_worker(
    decode: Callable[[LatentChunk], FrameChunk], source: Mailbox[LatentChunk], out: Mailbox[FrameChunk],
    config: WorkerConfig, token: CancelToken, metrics: StreamMetrics | None,
) -> None:
    try:
        with worker_context(config):
            for chunk in source:
                token.check()
                with metrics.decoding() if metrics else nullcontext():
                    frames = decode(chunk)
                out.put(frames)
        out.finish()
    except Closed:
        out.finish()
    except BaseException as error:
        out.finish(error)
    finally:
        source.stop()


def run_pipeline(
    produce: Callable[[CancelToken], Iterator[LatentChunk]],
    decode: Callable[[LatentChunk], FrameChunk],
    *,
    denoise_on: WorkerConfig,
    decode_on: WorkerConfig,
    queue_depth: int = 2,
    cancel: CancelToken | None = None,
    poll: Poll | None = None,
    metrics: StreamMetrics | None = None,
) -> Generator[FrameChunk, None, None]:
    """Frames as they are ready; at most `queue_depth` chunks wait behind each worker.

    `poll` is called on the caller's thread about every 20 ms while it waits and may raise (a host's
    interrupt). Raises Cancelled when `cancel` is, and whatever either worker raises. Both threads have
    ended when the generator has: at its end, by an error, or because the caller closed it.
    """
    token = LinkedToken(cancel)
    latents: Mailbox[LatentChunk] = Mailbox(queue_depth)
    frames: Mailbox[FrameChunk] = Mailbox(queue_depth)
    workers = [
        threading.Thread(
            target=_denoise_worker, args=(produce, latents, denoise_on, token, metrics), name="tm-denoise", daemon=True),
        threading.Thread(
            target=_decode_worker, args=(decode, latents, frames, decode_on, token, metrics), name="tm-decode", daemon=True),
    ]

    def look() -> None:
        token.check()
        if poll is not None:
            poll()

    threads_before = torch.get_num_threads()
    try:
        for worker in workers:
            worker.start()
        while True:
            try:
                chunk = frames.take(look)
            except Closed:
                return
            if metrics is not None:
                metrics.frames_out(len(chunk.frames))
            yield chunk
    finally:
        token.cancel()
        latents.stop()
        frames.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        torch.set_num_threads(threads_before)  # a worker's own number is also the default of threads born later
