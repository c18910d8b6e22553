"""Files that are written: never over what is read, whole or not at all, by one job at a time.

A file has the name NAME.tm.part until it is whole, then it is renamed. A lock on that file says that a job is at work; it goes
with the process, so the next job takes over what a kill left. Non-goals: what is in the files, folders of many (batch.ledger).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from .errors import InputError

PART = ".tm.part"
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # of videos that are written, by suffix
REMEDY = "choose a folder that exists and that you may write to"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
APART = "nothing was done; give it a name of its own"
BUSY = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
Named = tuple[str, Path]  # the option or column a path came from, and the path


def part_of(path: Path) -> Path:
    """The name of a file until it is whole."""
    return path.with_name(path.name + PART)


class Staged:
    """A context manager: gives the temporary name to write to; leaving it renames, leaving it by an error removes.

    InputError where nothing can be written, or another job is writing there at this moment.
    """

    def __init__(self, path: Path, field: str = "out") -> None:
        self.path, self.field, self.part = Path(path), field, part_of(Path(path))
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Path:
        try:
            self._lock = _own(self.part)
        except OSError as error:
            raise write_error(self.field, self.path, error) from error
        except ValueError as error:  # a NUL in the name
            raise InputError(self.field, self.path, "is no name of a file", REMEDY) from error
        if self._lock is None:
            raise InputError(self.field, self.path, "another job is writing it", "wait for it, or choose another name")
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._rename()
            else:
                self._remove()
        finally:
            self._release()

    def _rename(self) -> None:
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._release()
        try:
            os.replace(self.part, self.path)
        except OSError as error:
            self._remove()
            raise write_error(self.field, self.path, error) from error

    def _remove(self) -> None:
        """Only while the lock is held: afterwards the name may be another job's."""
        if sys.platform == "win32":
            self._release()
        with contextlib.suppress(OSError):
            self.part.unlink()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = None


def _own(part: Path) -> IO[bytes] | None:
    """The empty temporary file, open and locked; None: it is another job's."""
    file = open(part, "a+b")
    try:
        # whoever had it may have renamed it between our opening and our locking: then the lock is on their finished file
        if lock(file) and os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
            file.truncate(0)
            return file
    except FileNotFoundError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def lock(file: IO[bytes]) -> bool:
    """Make a file this process's until it is closed; False where it is another's. A disk without locks locks nothing."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)  # a lock on Windows keeps everyone from the bytes it covers
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in BUSY
    return True


def write_error(field: str, path: Path, error: OSError) -> InputError:
    """An error of the disk in words a user can act on."""
    if error.errno in FULL:
        return InputError(field, path, "the disk is full", "free some space or choose another disk")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(field, path, "is a name too long for this disk", "choose a shorter one")
    return InputError(field, path, f"cannot be written ({error.strerror or error})", REMEDY)


def is_full(error: BaseException | None) -> bool:
    """Whether an error came from a disk that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__
    return False


def write_text(path: Path, text: str, field: str = "out") -> None:
    """A text file, whole or not at all."""
    with Staged(path, field) as part:
        try:
            part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise write_error(field, path, error) from error


def check_output(path: Path, field: str = "out", suffixes: Sequence[str] = ()) -> None:
    """InputError unless a file can be written at `path`, under a name that says what is in it; leaves nothing behind."""
    path = Path(path)
    if path.is_dir():
        raise InputError(field, path, "is a folder", f"give the name of a file{(suffixes and f', as NAME{suffixes[0]}') or ''}")
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(field, path, f"{path.suffix or 'no suffix'} is not what is written", f"end the name in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(field, path, f"there is no folder {path.parent}", REMEDY)
    with contextlib.suppress(_Unwritten), Staged(path, field):
        raise _Unwritten


def check_place(folder: Path, field: str = "out") -> None:
    """InputError unless a folder is there or can be made; makes nothing."""
    folder = Path(folder)
    found = _existing(folder)
    if not found.is_dir():
        raise InputError(field, folder, "is no folder" if found == folder else f"{found} is no folder", "name a folder")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InputError(field, folder, f"you may not write to {found}", REMEDY)
    if Limits.of(folder).exceeded(folder):
        raise write_error(field, folder, OSError(errno.ENAMETOOLONG, ""))


def _existing(path: Path) -> Path:
    """The path, or the first of the folders it lies in that is there."""
    return next((up for up in (path, *path.absolute().parents) if os.path.lexists(up)), Path(path.absolute().anchor))


@dataclass(frozen=True)
class Limits:
    """How long a name and a whole path may be on a disk."""

    name: int = 255
    path: int = 259 if sys.platform == "win32" else 4095

    @classmethod
    def of(cls, folder: Path) -> Limits:
        """Those of the disk that a folder is on, or will be."""
        if sys.platform == "win32":
            return cls()
        try:
            place = _existing(folder)
            return cls(os.pathconf(place, "PC_NAME_MAX"), os.pathconf(place, "PC_PATH_MAX") - 1)  # a path ends in a zero
        except (OSError, ValueError):
            return cls()

    def exceeded(self, path: Path) -> bool:
        """Whether a path is too long, or a name in it."""
        full = os.path.abspath(path)
        text: str | bytes = full if sys.platform == "win32" else os.fsencode(full)
        names = full.split(os.sep) if isinstance(text, str) else text.split(os.fsencode(os.sep))
        return len(text) > self.path or any(len(name) > self.name for name in names)


class _Unwritten(Exception):
    """Leaves a temporary file that was only tried."""


def check_apart(reads: Collection[Named], writes: Sequence[Named]) -> None:
    """InputError where a file would be written over one that is read, or two over each other.

    One file by any name: relative, by a link, by capitals, by what it is called until it is whole.
    """
    for index, rule in collisions(reads, writes):
        field, path = writes[index]
        raise InputError(field, path, rule, APART)


def collisions(reads: Collection[Named], writes: Sequence[Named], part: Callable[[Path], Path] = part_of) -> Iterator[tuple[int, str]]:
    """Of each of `writes` that is no file of its own (check_apart) the index, and why; `part`: its name until it is whole."""
    spell = _Spelling()
    taken: dict[object, str] = {}
    inside: dict[str, str] = {}  # folders with files of the job in them
    for field, path in reads:
        for key in spell.keys(path):
            taken.setdefault(key, f"is the file that {field} reads")
        for up in spell.folders(path):
            inside.setdefault(up, f"is a folder that {field} reads from")
    for index, (field, path) in enumerate(writes):
        names = {path, part(path)}
        keys = [key for name in names for key in spell.keys(name)]
        above = spell.folders(path)
        rule = next((taken[key] for key in keys if key in taken), None)
        rule = rule or inside.get(spell.of(path)) or next((taken[up] for up in above if up in taken), None)
        if rule is not None:
            yield index, rule
        for key in keys:
            taken.setdefault(key, f"is the file that {field} writes")
        for up in above:
            inside.setdefault(up, f"is a folder that {field} writes into")


class _Spelling:
    """Paths in full, links followed, alike for names that are one on some disk (capitals, accents); asks of each folder once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._above: dict[str, list[str]] = {}

    def of(self, path: Path) -> str:
        """A path."""
        text = str(path)
        if text not in self._known:
            folder, name = os.path.split(text)
            if folder not in self._folders:
                self._folders[folder] = _real(folder)
            alone = name in ("", "..") or os.path.islink(text)
            full = _real(text) if alone else os.path.join(self._folders[folder], name)
            self._known[text] = full.casefold() if full.isascii() else unicodedata.normalize("NFC", full).casefold()
        return self._known[text]

    def keys(self, path: Path) -> Iterator[object]:
        """What tells one file from another: its place on the disk, if there is one, and its name."""
        try:
            stat = os.stat(path)
            yield stat.st_dev, stat.st_ino
        except (OSError, ValueError):  # not there, or no usable name: whoever opens it says so
            pass
        yield self.of(path)

    def folders(self, path: Path) -> list[str]:
        """Every folder a path lies in."""
        first = os.path.dirname(self.of(path))
        if first not in self._above:
            above = [first]
            while (up := os.path.dirname(above[-1])) != above[-1]:
                above.append(up)
            self._above[first] = above
        return self._above[first]


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return path
