"""Numbers by name: what a recorder and a test fill weights and inputs with, so that only outputs need storing.

NumPy promises that `RandomState` never changes its numbers; torch promises nothing of the kind.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def numbers(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers that depend on the name alone."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(drawn.astype(np.float32))


def fill(module: nn.Module, rename: dict[str, str] | None = None) -> None:
    """Every parameter from its own name (parts of it renamed): norms around 1, other weights of about unit gain."""
    for name, parameter in module.named_parameters():
        for old, new in (rename or {}).items():
            name = name.replace(old, new)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        scale = 0.3 if parameter.dim() == 1 or "modulation" in name else parameter[0].numel() ** -0.5
        parameter.data = centre + scale * numbers(name, tuple(parameter.shape))
