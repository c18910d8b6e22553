"""What became of every source and every clip: ledger.jsonl, one JSON object a line.

A source's lines are appended at once when it is finished, its own line last; a run that is killed half way through a line
loses that source only. At the end of a run the file is written anew, sorted. The same run, killed or not, leaves the same
ledger: no times of day, no durations of the work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...outputs import write_text

FootageRecord = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a source must still be like for its result to hold: size, time of change, settings of the run."""

    size: int
    mtime_ns: int
    settings: str

    @staticmethod
    def of(path: Path, settings: str) -> Stamp:
        """The stamp of a file now."""
        stat = path.stat()
        return Stamp(size=stat.st_size, mtime_ns=stat.st_mtime_ns, settings=settings)


def source_record(source: str, stamp: Stamp, state: str, *, reason: str | None = None, detail: str = "", seconds: float = 0.0,
                  left_s: float = 0.0, fps: float | None = None) -> FootageRecord:
    """`state` done, broken (not tried again until it changes) or failed (tried again); `left_s` too short for a clip."""
    return {
        "kind": "source", "source": source, "state": state, "reason": reason, "detail": detail, "seconds": round(seconds, 3),
        "left_s": round(left_s, 3), "fps": fps, "size": stamp.size, "mtime_ns": stamp.mtime_ns, "settings": stamp.settings}


def clip_record(source: str, name: str, start_s: float, end_s: float, *, reason: str | None, measures: FootageRecord) -> FootageRecord:
    """A clip that is kept (`reason` None) or dropped."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in measures.items()}
    return {
        "kind": "clip", "source": source, "name": name, "state": "dropped" if reason else "kept", "reason": reason,
        "start_s": round(start_s, 3), "end_s": round(end_s, 3), "measures": rounded}


class FootageLedger:
    """The records by source; `records` are in the file's order once it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_source = _read(path)

    def finished(self, source: str, stamp: Stamp) -> bool:
        """Whether a source need not be done again."""
        last = (self._by_source.get(source) or [{}])[-1]
        return last.get("state") in ("done", "broken") and stamp == Stamp(
            size=last["size"], mtime_ns=last["mtime_ns"], settings=last["settings"])

    def add(self, source: str, records: list[FootageRecord]) -> None:
        """Append a finished source's lines, its own last."""
        self._by_source[source] = records
        text = "".join(json.dumps(r, sort_keys=True) + "\n" for r in records)
        with open(self.path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def compact(self) -> None:
        """Write the file anew: one result a source, sorted."""
        write_text(self.path, "".join(json.dumps(r, sort_keys=True) + "\n" for r in self))

    def __iter__(self) -> Iterator[FootageRecord]:
        return (r for source in sorted(self._by_source) for r in self._by_source[source])


def _read(path: Path) -> dict[str, list[FootageRecord]]:
    """Records of finished sources; lines cut off by a kill and those of unfinished sources are left out."""
    found: dict[str, list[FootageRecord]] = {}
    open_: dict[str, list[FootageRecord]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            open_.setdefault(record["source"], []).append(record)
        except (ValueError, KeyError, TypeError):
            continue
        if record["kind"] == "source":
            found[record["source"]] = open_.pop(record["source"])
    return found
