"""What can be said about inputs before a model or a library is loaded: that files are there, that numbers are in range.

Everything here imports in a millisecond, so a wrong name is told at once. Non-goals: what is in a file (media), where files
are written (outputs).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, get_args

from .errors import InputError

SpeakingMode = Literal["auto", "speaking", "listening"]
VideoFraming = Literal["picture", "face"]
LEAST_SIZE, MOST_SIZE = 64, 4096  # pixels of the video's longer side
MAX_SEED = 2**63 - 1
MAX_STEPS = 100


def check_file(field: str, path: Path, remedy: str) -> None:
    """InputError unless `path` is a file with something in it."""
    found = _stat(field, path)
    if found is None:
        raise InputError(field, path, "no such file", "check the path")
    if stat.S_ISDIR(found.st_mode):
        raise InputError(field, path, "is a folder", remedy)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(field, path, "is no file but a pipe or a device", "save it as a file")
    if found.st_size == 0:
        raise InputError(field, path, "is empty (0 bytes)", remedy)


def check_folder(field: str, path: Path, remedy: str) -> None:
    """InputError unless `path` is a folder."""
    found = _stat(field, path)
    if found is None:
        raise InputError(field, path, "no such folder", "check the path")
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(field, path, "is no folder", remedy)


def _stat(field: str, path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered, a NUL
        raise InputError(field, path, f"cannot be opened ({getattr(error, 'strerror', None) or error})", "check the path") from error


def decoded(field: str, name: object, data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16, lines ended by newlines; InputError names the line that is neither."""
    encoding = "utf-8-sig"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        said = data.splitlines()[line - 1][:40].decode("ascii", "replace").replace("\ufffd", "?")
        raise InputError(field, name, f"line {line} ({said}) is no UTF-8 text", "save it as UTF-8 (a table: as CSV UTF-8)") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_steps(steps: int | None) -> None:
    """InputError for a number of denoising steps that is none."""
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise InputError("steps", steps, f"must be 1 to {MAX_STEPS}", "leave it out for the number the model was made for")


def check_options(
    *, seed: int = 0, steps: int | None = None, speaking: str = "auto", queue_depth: int = 2, face: int | str | None = None,
    track: int | None = None, framing: str = "picture", size: int | None = None,
) -> None:
    """InputError for options out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError("seed", seed, "must be a whole number from 0 to 2^63 - 1", "use 0")
    check_steps(steps)
    if speaking not in get_args(SpeakingMode):
        raise InputError("speaking", speaking, "unknown mode", f"choose one of {', '.join(get_args(SpeakingMode))}")
    if queue_depth < 1:
        raise InputError("queue_depth", queue_depth, "at least one chunk must fit", "use 2")
    if isinstance(face, int) and face < 0:
        raise InputError("face", face, "faces are counted from 0, row by row from the left", "leave it out for the only one")
    if track is not None and track < 0:
        raise InputError("track", track, "sound tracks are counted from 0", "leave it out for the file's own choice")
    if framing not in get_args(VideoFraming):
        raise InputError("framing", framing, "is no framing", f"choose {' or '.join(get_args(VideoFraming))}")
    if framing == "face" and face == "all":
        raise InputError("framing", framing, "shows one face, and all are animated", "choose framing picture, or one face")
    if size is not None and not LEAST_SIZE <= size <= MOST_SIZE:
        raise InputError("size", size, f"must be {LEAST_SIZE} to {MOST_SIZE} pixels", "leave it out")
