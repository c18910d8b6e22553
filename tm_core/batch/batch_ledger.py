"""What became of every item: ledger.jsonl beside the outputs, one JSON object a line, only ever added to.

A video is made under a name of its own in the staging folder, its record (with its hash) is written and synced, and only then
it is renamed into place. So whatever moment a kill comes at: no record, and the item is made again; a record, and the next run
finishes the renaming. A finished video with the size and the time that were recorded is taken as it is; with others it is hashed,
and made again unless it is the same. One process at a time works on a folder; the lock goes with the process. Non-goals: several
writers; with Ray, too, only the process that was started writes here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..outputs import is_full, lock, write_error
from .digest import file_digest
from .places import LEDGER as LEDGER
from .places import STAGING

log = logging.getLogger(__name__)
REMEDY = "choose a folder that you may write to"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """A line: `digest` of inputs, options and model; of a failed item why.

    Of a done one the staged file, and the video's hash, size in bytes and time of writing; older records lack the last two.
    """

    out: str
    digest: str
    state: str
    staged: str = ""
    sha256: str = ""
    size: int = 0
    mtime_ns: int = 0
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class BatchLedger:
    """A context manager: the lock, the records, and the way of a video from the staging folder to its name.

    InputError where the disk is full or the ledger cannot be written; a video that cannot get its name is a failed item.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / STAGING
        self._records: dict[str, BatchRecord] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> BatchLedger:
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

    def of(self, out: str, digest: str) -> BatchRecord | None:
        """What became of an item; None: nothing yet, or its inputs or options were others, or its video went away or was changed."""
        record = self._records.get(out)
        if record is None or record.digest != digest:
            return None
        return None if record.state == DONE and not self._whole(record) else record

    def _whole(self, record: BatchRecord) -> bool:
        """Whether a video is the one that was made; what has its size and time is not read."""
        path = self.folder / record.out
        try:
            now = os.stat(path)
            if not stat.S_ISREG(now.st_mode):
                return False
            if (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns):
                return True
            same = record.size in (0, now.st_size) and file_digest(path) == record.sha256
        except OSError:
            return False
        if not same:
            log.warning("%s is not as it was made; it is made again", record.out)
        return same

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
        for record in list(self._records.values()):
            staged = self.staging / record.staged
            if record.state == DONE and record.staged and staged.is_file() and file_digest(staged) == record.sha256:
                self._place(record)
        for path in self._staged():
            path.unlink(missing_ok=True)

    def _staged(self) -> Iterable[Path]:
        return [p for p in self.staging.glob("*") if p.is_file()]

    # -- what happens

    def done(self, record: BatchRecord) -> BatchRecord:
        """Note a whole video of the staging folder and give it its name; the record that stands, a failed one if it got none."""
        try:
            made = os.stat(self.staging / record.staged)
        except OSError as error:
            return self._unnamed(record, error)
        record = replace(record, size=made.st_size, mtime_ns=made.st_mtime_ns)
        self._append(record)
        return self._place(record)

    def failed(self, record: BatchRecord) -> BatchRecord:
        """Note why there is no video."""
        self._append(record)
        return record

    def _append(self, record: BatchRecord) -> None:
        assert self._file is not None
        line = json.dumps({k: v for k, v in asdict(record).items() if v}, sort_keys=True) + "\n"
        try:
            self._file.write(line.encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError("out", self.folder / LEDGER, f"cannot be written ({error.strerror})", "free some space") from error
        self._records[record.out] = record

    def _place(self, record: BatchRecord) -> BatchRecord:
        target = self.folder / record.out
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staging / record.staged, target)
        except OSError as error:
            return self._unnamed(record, error)
        return record

    def _unnamed(self, record: BatchRecord, error: OSError) -> BatchRecord:
        """The failure of a video that cannot get its name; a full disk is everybody's."""
        told = write_error("out", self.folder / record.out, error)
        if is_full(error):
            raise told from error
        return self.failed(BatchRecord(out=record.out, digest=record.digest, state=FAILED, reason=str(told)))


def _record(line: bytes) -> BatchRecord | None:
    try:
        record = BatchRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return record if isinstance(record.out, str) and record.state in (DONE, FAILED) else None
