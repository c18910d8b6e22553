"""Bytes kept on disk in a file without a name: it goes when the object does, or the process.

Written at the end, read anywhere. Non-goals: files that users see (outputs). Not for two threads at once: whoever shares one locks.
"""

from __future__ import annotations

import tempfile
from typing import BinaryIO, cast

from .errors import InputError


class ScratchFile:
    """Bytes that were appended, in the temporary folder; `what` is named where the disk is full."""

    def __init__(self, what: str) -> None:
        self._what, self._file, self.size = what, cast("BinaryIO | None", None), 0

    def append(self, data: bytes) -> int:
        """Adds bytes and returns where they begin; InputError when the disk is full."""
        start = self.size
        try:
            if self._file is None:
                self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="tm-", buffering=0))
            self._file.seek(start)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            raise InputError(
                "temporary folder", tempfile.gettempdir(), f"cannot hold {self._what} ({error.strerror or error})",
                "free some space or point TMPDIR to a disk that has it",
            ) from error
        self.size = start + len(data)
        return start

    def read(self, start: int, count: int) -> bytearray:
        """`count` bytes from `start` on, all of which were appended."""
        assert self._file is not None and start + count <= self.size
        self._file.seek(start)
        data = bytearray()
        while len(data) < count:
            part = self._file.read(count - len(data))
            if not part:
                raise OSError(f"the file of {self._what} ended early")
            data += part
        return data

    def clear(self) -> None:
        """Forget everything and give the disk space back."""
        if self._file is not None:
            self._file.close()
        self._file, self.size = None, 0
