"""A worker's share of the machine, and how tensors pass from one worker to the other.

On the CPU a worker has its own number of threads; on CUDA a stream of its own, the same one in every run, because the allocator
keeps a pool of memory for each. Non-goals: what workers do (pipeline). Paper section 4. Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Role = Literal["denoise", "decode"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Where a worker computes; `threads` of the CPU (None: as many as torch was told)."""

    device: torch.device
    threads: int | None = None


_LOCK = threading.Lock()
_STREAMS: dict[tuple[torch.device, Role], Any] = {}


@contextmanager
def worker_context(config: WorkerConfig, role: Role) -> Iterator[None]:
    """A thread's own share of the machine: threads of the CPU, or the side stream of its GPU that this role has."""
    if config.device.type == "cpu" and config.threads is not None:
        limit_threads(config.threads)
    with torch.inference_mode():
        if config.device.type != "cuda":
            yield
            return
        with torch.cuda.device(config.device):
            stream, outside = worker_stream(config.device, role), torch.cuda.current_stream(config.device)
            stream.wait_stream(outside)  # weights and inputs made there
            try:
                with torch.cuda.stream(stream):
                    yield
            finally:  # after an error or a cancel as well
                outside.wait_stream(stream)  # what is freed outside may still be read here


def worker_stream(device: torch.device, role: Role) -> Any:
    """The one CUDA stream of a device and a role."""
    with _LOCK:
        if (device, role) not in _STREAMS:
            _STREAMS[device, role] = torch.cuda.Stream(device)
        return _STREAMS[device, role]


def limit_threads(count: int) -> None:
    """The calling thread computes with `count` threads of the CPU, nobody else is touched.

    torch keeps the number for the calling thread and, besides, for threads born later. The second is read and put back at once,
    both in a thread made for it, since only a new one knows it; so pipelines may overlap in any order.
    """
    torch.get_num_threads()  # a thread takes the common number when it first asks, which must not be after it has its own
    with _LOCK:
        before = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(count)
        _in_new_thread(lambda: torch.set_num_threads(before))


@contextmanager
def few_threads(count: int = 1) -> Iterator[None]:
    """The calling thread computes with `count` threads of the CPU for a while: more of them wait for one another on busy cores."""
    before = torch.get_num_threads()
    limit_threads(count)
    try:
        yield
    finally:
        limit_threads(before)


def free_threads() -> int:
    """Threads of the CPU that a thread born now computes with, whatever the calling one was limited to."""
    with _LOCK:  # not while a worker takes its own
        return _in_new_thread(torch.get_num_threads)


def _in_new_thread(work: Callable[[], T]) -> T:
    made: list[T] = []
    thread = threading.Thread(target=lambda: made.append(work()), name="tm-threads")
    thread.start()
    thread.join()
    return made[0]


def mark_made(x: Tensor) -> Any:
    """A CUDA event after what computes `x`, which whoever reads it on another stream waits for; None elsewhere."""
    return torch.cuda.current_stream(x.device).record_event() if x.device.type == "cuda" else None


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


def to_worker(x: Tensor, device: torch.device, dtype: torch.dtype, made: Any = None) -> Tensor:
    """`x` on the device of the calling worker, after `made` (mark_made), safe against reuse of its memory by the worker it came from.

    A copy to the CPU is there when this returns; one to a GPU is ordered before what this worker's stream does next.
    """
    if x.device.type == "cuda":
        stream = torch.cuda.current_stream(x.device)
        if made is not None:
            stream.wait_event(made)
        x.record_stream(stream)
    return x.to(device=device, dtype=dtype, non_blocking=device.type == "cuda")


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) in 0..1 -> (T, H, W, 3) uint8 in host memory."""
    levels = frames.float().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
    return to_host(levels.permute(0, 2, 3, 1).contiguous()).numpy()
