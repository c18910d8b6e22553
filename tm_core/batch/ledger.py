"""What became of every item: ledger.jsonl beside the outputs, one JSON object a line, only ever added to.

A video is made under a name of its own in the staging folder, its record (with its hash) is written and synced, and only then
it is renamed into place. So whatever moment a kill comes at: no record, and the item is made again; a record, and the next run
finishes the renaming. One process at a time works on a folder; the lock goes with the process. Non-goals: several writers;
with Ray, too, only the process that was started writes here.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..outputs import lock
from .digest import file_digest
from .manifest import STAGING

LEDGER = "ledger.jsonl"
REMEDY = "choose a folder that you may write to"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line: `digest` of inputs, options and model; of a done item the staged file and the video's hash, of a failed one why."""

    out: str
    digest: str
    state: str
    staged: str = ""
    sha256: str = ""
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """A context manager: the lock, the records, and the way of a video from the staging folder to its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / STAGING
        self._records: dict[str, Record] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Ledger:
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / LEDGER, "a+b", buffering=0)
            if not lock(self._file):
                raise InputError("out", self.folder, "another batch is working there", "wait for it, or choose another folder")
            self._read()
            self._settle()
        except OSError as error:
            self._close()
            raise InputError("out", self.folder, f"cannot be used ({error.strerror})", REMEDY) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._staged():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's is in there
            self.staging.rmdir()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    # -- what is known

    def of(self, out: str, digest: str) -> Record | None:
        """What became of an item; None: nothing yet, or its inputs or options were others, or its video went away."""
        record = self._records.get(out)
        if record is None or record.digest != digest:
            return None
        return None if record.state == DONE and not (self.folder / out).is_file() else record

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        text = self._file.read()
        for line in text.splitlines():
            record = _record(line)
            if record is not None:
                self._records[record.out] = record
        if text and not text.endswith(b"\n"):
            self._file.write(b"\n")  # a line that a kill cut off stays, and is read as nothing

    def _settle(self) -> None:
        """Finish what a kill interrupted between record and rename; remove what was never whole."""
        for record in self._records.values():
            staged = self.staging / record.staged
            if record.state == DONE and record.staged and staged.is_file() and file_digest(staged) == record.sha256:
                self._place(staged, record.out)
        for path in self._staged():
            path.unlink(missing_ok=True)

    def _staged(self) -> Iterable[Path]:
        return [p for p in self.staging.glob("*") if p.is_file()]

    # -- what happens

    def done(self, record: Record) -> None:
        """Record a whole video of the staging folder and give it its name."""
        self._append(record)
        self._place(self.staging / record.staged, record.out)

    def failed(self, record: Record) -> None:
        """Record why there is no video."""
        self._append(record)

    def _append(self, record: Record) -> None:
        assert self._file is not None
        line = json.dumps({k: v for k, v in asdict(record).items() if v}, sort_keys=True) + "\n"
        try:
            self._file.write(line.encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError("out", self.folder / LEDGER, f"cannot be written ({error.strerror})", "free some space") from error
        self._records[record.out] = record

    def _place(self, staged: Path, out: str) -> None:
        target = self.folder / out
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
        except OSError as error:
            raise InputError("out", target, f"cannot be written ({error.strerror})", REMEDY) from error


def _record(line: bytes) -> Record | None:
    try:
        record = Record(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return record if isinstance(record.out, str) and record.state in (DONE, FAILED) else None
