"""Files that are read: what can be said of one before it is opened.

Light: no import that takes time, so that a wrong name is told at once. Non-goals: whether it really is a picture or a sound.
"""

from __future__ import annotations

from pathlib import Path

from .errors import InputError


def check_file(field: str, path: Path, remedy: str) -> None:
    """InputError unless `path` is a file with something in it."""
    if path.is_dir():
        raise InputError(field, path, "is a folder", remedy)
    if not path.is_file():
        raise InputError(field, path, "no such file", "check the path")
    if path.stat().st_size == 0:
        raise InputError(field, path, "is empty (0 bytes)", remedy)
