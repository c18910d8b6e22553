"""Weights and sounds from a formula, so recorded numbers need neither files nor a library's random generator.

Value i of a tensor is the fractional part of 43758.5453 sin(12.9898 (i + 1) + 78233 crc32(name) / 2^32), spread evenly over
-sqrt(3) ... sqrt(3) (unit variance), in float64. Same rule in parity/recorders, in tests and inside the host.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def noise(name: str, count: int) -> NDArray[np.float64]:
    """Values (count,) with zero mean and unit variance; another name, other values."""
    phase = 78233.0 * zlib.crc32(name.encode()) / 2**32
    spread = np.sin(12.9898 * np.arange(1, count + 1, dtype=np.float64) + phase) * 43758.5453
    return np.asarray((spread - np.floor(spread) - 0.5) * np.sqrt(12))


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight: norms and magnitudes around 1, biases small, matrices scaled by their inputs. float32."""
    values = torch.from_numpy(noise(name, int(np.prod(shape)))).reshape(shape)
    around_one = name.endswith(("weight_g", "original0")) or ("norm" in name and name.endswith("weight"))
    if around_one:
        return (1 + 0.2 * values).float()
    scale = 0.2 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
    return (scale * values).float()


def numbers(name: str, shape: tuple[int, ...]) -> Tensor:
    """An input of unit variance, float32."""
    return torch.from_numpy(noise(name, int(np.prod(shape)))).reshape(shape).float()


def fill_module(module: nn.Module, rename: Mapping[str, str] | None = None) -> None:
    """Every parameter from its own name, parts of it renamed; Wan's modulation is no matrix: its rows are 0.3 wide."""
    for name, parameter in module.named_parameters():
        for old, new in (rename or {}).items():
            name = name.replace(old, new)
        shape = tuple(parameter.shape)
        parameter.data = 0.3 * numbers(name, shape) if "modulation" in name else fill(name, shape)


def fill_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """All weights of a module by name."""
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}


def sound(count: int, *, level: float = 0.1, sample_rate: int = 16000) -> NDArray[np.float32]:
    """Something like speech (count,): a gliding voice in syllables with pauses, a little noise."""
    t = np.arange(count) / sample_rate
    voice = sum(np.sin(2 * np.pi * k * (120 * t + 4 * np.sin(3 * t))) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.35 * t) > -0.4)
    return np.asarray(level * (syllables * voice + 0.02 * noise("sound", count)), np.float32)
