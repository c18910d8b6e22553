"""Two workers joined by a mailbox: one denoises, one decodes, the caller's thread takes frames.

Each worker has its own thread, device and (on CUDA) stream (workers). Errors of either worker surface at the caller;
the caller's cancel, error or loss of interest stops both workers, which are joined before the generator
ends. An interruption (Epoch) lets them go on: what they made before it goes no further. Non-goals: what a chunk is made of
(sampler), keeping chunks (handles). Paper section 4 (disaggregation of DiT and VAE). Shapes: F latents, T frames.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ..errors import Cancelled
from .cancel import CancelToken, LinkedToken
from .mailbox import Closed, Epoch, Mailbox
from .metrics import StreamMetrics
from .sampler import LatentChunk
from .workers import WorkerConfig, mark_made, worker_context

Poll = Callable[[], None]
Produce = Callable[[CancelToken], Generator[LatentChunk, None, None]]


@dataclass(frozen=True, kw_only=True)
class FrameChunk:
    """Frames (T, H, W, 3) uint8 of chunk `index`; the first is shown at pts * time_base seconds. `epoch`: see run_pipeline."""

    index: int
    frames: np.ndarray
    pts: int
    time_base: Fraction
    epoch: int = 0


def _denoise_worker(
    produce: Produce, out: Mailbox[LatentChunk], config: WorkerConfig, token: CancelToken, metrics: StreamMetrics | None,
) -> None:
    try:
        with worker_context(config, "denoise"), closing(produce(token)) as chunks:
            while True:
                epoch = out.epoch.number
                with metrics.denoising() if metrics else nullcontext():
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                token.check()
                out.put(replace(chunk, made=mark_made(chunk.latents)), epoch if chunk.epoch is None else chunk.epoch)
        out.finish()
    except Closed:  # the decoder has stopped and says why itself
        out.finish()
    except BaseException as error:  # every error belongs to the caller's thread
        out.finish(error)


def _decode_worker(
    decode: Callable[[LatentChunk], FrameChunk], source: Mailbox[LatentChunk], out: Mailbox[FrameChunk],
    config: WorkerConfig, token: CancelToken, metrics: StreamMetrics | None, prepare: Callable[[], None] | None,
) -> None:
    try:
        with worker_context(config, "decode"):
            if prepare is not None:
                prepare()
            for epoch, chunk in _tagged(source):
                token.check()
                with metrics.decoding() if metrics else nullcontext():
                    frames = decode(chunk)
                out.put(replace(frames, epoch=epoch), epoch)
        out.finish()
    except Closed:
        out.finish()
    except BaseException as error:
        out.finish(error)
    finally:
        source.stop()


def _tagged(source: Mailbox[LatentChunk]) -> Iterator[tuple[int, LatentChunk]]:
    while True:
        try:
            yield source.take_tagged()
        except Closed:
            return


def run_pipeline(
    produce: Produce,
    decode: Callable[[LatentChunk], FrameChunk],
    *,
    denoise_on: WorkerConfig,
    decode_on: WorkerConfig,
    queue_depth: int = 2,
    cancel: CancelToken | None = None,
    poll: Poll | None = None,
    metrics: StreamMetrics | None = None,
    epoch: Epoch | None = None,
    prepare: Callable[[], None] | None = None,
) -> Generator[FrameChunk, None, None]:
    """Frames as they are ready; at most `queue_depth` chunks wait behind each worker.

    `prepare` is called by the worker that decodes, while the first chunk is denoised.

    `poll` is called on the caller's thread about every 20 ms while it waits and may raise (a host's
    interrupt). Raises Cancelled when `cancel` is, and whatever either worker raises, which goes first: a host's layers
    raise its interrupt in whichever thread looks first, and it is seen once. Both threads have ended when the generator
    has: at its end, by an error, or because the caller closed it.

    `epoch.advance()` interrupts: what was denoised or decoded before is dropped and never comes out. A chunk belongs to the epoch
    it names, or else to the one in which making it began; what `produce` goes on with is its own affair.
    """
    token = LinkedToken(cancel)
    epoch = epoch or Epoch()
    latents: Mailbox[LatentChunk] = Mailbox(queue_depth, epoch=epoch)
    frames: Mailbox[FrameChunk] = Mailbox(queue_depth, epoch=epoch)
    workers = [
        threading.Thread(
            target=_denoise_worker, args=(produce, latents, denoise_on, token, metrics), name="tm-denoise", daemon=True),
        threading.Thread(
            target=_decode_worker, args=(decode, latents, frames, decode_on, token, metrics, prepare), name="tm-decode", daemon=True),
    ]

    def look() -> None:
        token.check()
        if poll is not None:
            poll()

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
    except Cancelled:
        _end(token, latents, frames, workers)
        for error in (latents.error, frames.error):
            if error is not None and not isinstance(error, Cancelled):
                raise error from None
        raise
    finally:
        _end(token, latents, frames, workers)


def _end(token: CancelToken, latents: Mailbox[LatentChunk], frames: Mailbox[FrameChunk], workers: list[threading.Thread]) -> None:
    """Both workers have ended after it; again is no error."""
    token.cancel()
    latents.stop()
    frames.stop()
    for worker in workers:
        if worker.ident is not None:
            worker.join()
