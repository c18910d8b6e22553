"""What parts measure with: milliseconds of a call on a device, megabytes that tensors hold, how two results differ."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], object], device: str, repeats: int = 10, warm: int = 3) -> float:
    """Median of `repeats` calls after `warm`; on CUDA between events, so that launching the first kernel does not count."""
    for _ in range(warm):
        run()
    wait(device)
    return statistics.median((_event_ms if device.startswith("cuda") else _clock_ms)(run) for _ in range(repeats))


def _event_ms(run: Callable[[], object]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    run()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended)


def _clock_ms(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


def difference(ours: Tensor, exact: Tensor) -> float:
    """|ours - exact| / |exact|; what is not a number stays so."""
    ours, exact = ours.detach().double().cpu(), exact.detach().double().cpu()
    return float((ours - exact).norm() / exact.norm())


def allocated_mb(device: str) -> float:
    """Memory of the tensors there are: as CUDA's allocator counts it, or of all that the garbage collector knows."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated() / 1e6
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if issubclass(type(t), Tensor)}
    return sum(storages.values()) / 1e6
