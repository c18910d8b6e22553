"""Sampled latents kept on disk, so that a second sink samples nothing and memory does not grow with the stream."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .workers import to_host


class LatentSpool:
    """Chunks (1, C, F, h, w) on disk in a file without a name: it goes when the object does, or the process."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._kept: list[tuple[int, tuple[int, ...], torch.dtype]] = []  # where, shape, type: the first chunk may be another length
        self._end = 0

    @property
    def count(self) -> int:
        """Chunks kept."""
        return len(self._kept)

    def append(self, latents: Tensor) -> None:
        """Add the next chunk (1, C, F, h, w); InputError when the disk is full."""
        raw = to_host(latents).contiguous()
        data = raw.reshape(-1).view(torch.uint8).numpy().tobytes()
        try:
            if self._file is None:
                self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="tm-latents-", buffering=0))
            self._file.seek(self._end)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            raise InputError(
                "temporary folder", tempfile.gettempdir(), f"cannot hold the sampled stream ({error.strerror or error})",
                "free some space or point TMPDIR to a disk that has it",
            ) from error
        self._kept.append((self._end, tuple(raw.shape), raw.dtype))
        self._end += len(data)

    def read(self, index: int) -> Tensor:
        """Chunk `index` again."""
        assert self._file is not None and index < self.count
        start, shape, dtype = self._kept[index]
        size = int(np.prod(shape)) * dtype.itemsize
        self._file.seek(start)
        data = bytearray()
        while len(data) < size:
            part = self._file.read(size - len(data))
            if not part:
                raise OSError("the spooled stream ended early")
            data += part
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def clear(self) -> None:
        """Forget every chunk and give the disk space back."""
        if self._file is not None:
            self._file.close()
        self._file, self._end = None, 0
        self._kept.clear()
