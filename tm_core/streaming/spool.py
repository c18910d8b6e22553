"""Sampled latents kept on disk, so that a second sink samples nothing and memory does not grow with the stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..scratch import ScratchFile
from .workers import to_host


class LatentSpool:
    """Chunks (1, C, F, h, w) on disk."""

    def __init__(self) -> None:
        self._file = ScratchFile("the sampled stream")
        self._kept: list[tuple[int, tuple[int, ...], torch.dtype]] = []  # where, shape, type: the first chunk may be another length

    @property
    def count(self) -> int:
        """Chunks kept."""
        return len(self._kept)

    def append(self, latents: Tensor) -> None:
        """Add the next chunk (1, C, F, h, w); InputError when the disk is full."""
        raw = to_host(latents).contiguous()
        start = self._file.append(raw.reshape(-1).view(torch.uint8).numpy().tobytes())
        self._kept.append((start, tuple(raw.shape), raw.dtype))

    def read(self, index: int) -> Tensor:
        """Chunk `index` again."""
        start, shape, dtype = self._kept[index]
        return torch.frombuffer(self._file.read(start, math.prod(shape) * dtype.itemsize), dtype=dtype).reshape(shape)

    def clear(self) -> None:
        """Forget every chunk and give the disk space back."""
        self._file.clear()
        self._kept.clear()
