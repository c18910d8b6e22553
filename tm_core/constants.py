"""Numbers that a network computes with and that never change, on the device they are needed on.

Made anew each time they would be copied to a GPU each time, which waits for it in the middle of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def constant(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """`values` (n,) as a tensor that nobody may write to; copied to a device once."""
    return _constant(tuple(values), str(device), dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # one made while sampling may be read while training
def _constant(values: tuple[float, ...], device: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
