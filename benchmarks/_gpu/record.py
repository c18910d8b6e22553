"""Rows of a GPU run: one JSON object a line, written at once, so that what ends a process ends no row before it."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, object]
FIELDS = ("part", "what", "value", "unit", "bar", "ok", "seconds", "device")
ROWS = "rows.jsonl"
TOOK = "took"  # every part's last row


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """What one part writes with. `started` and `ends` are on the monotonic clock, which all processes of a machine share."""

    path: Path
    part: str
    device: str  # as torch names it
    started: float  # of the whole run
    ends: float  # when this part must have answered
    weights: Path | None = None  # of the small model, None: the bundled ones

    @property
    def cuda(self) -> bool:
        """Whether the device is one of CUDA's."""
        return self.device.startswith("cuda")

    def left(self) -> float:
        """Seconds this part still has."""
        return self.ends - time.monotonic()

    def row(self, what: str, value: object, unit: str = "", bar: str | None = None, ok: bool | None = None) -> None:
        """Add a figure, a word or a failure (ok False)."""
        now = round(time.monotonic() - self.started, 1)
        _append(self.path, dict(zip(FIELDS, (self.part, what, rounded(value), unit, bar, ok, now, self.device), strict=True)))

    def at_most(self, what: str, value: float, limit: float, unit: str = "") -> None:
        """A figure with its bar; what is not a number misses it."""
        self.row(what, value, unit, f"<= {limit:g}", bool(value <= limit))

    def true(self, what: str, holds: bool) -> None:
        """Something that must hold."""
        self.row(what, "yes" if holds else "no", "", "yes", holds)

    def failed(self, what: str, error: BaseException) -> None:
        """Something that should have worked and did not."""
        self.row(what, f"failed: {first_line(error)}", "", None, False)

    def unable(self, what: str, error: BaseException | str) -> None:
        """Something this device, or this build of torch, does not do."""
        self.row(what, f"not measured: {error if isinstance(error, str) else first_line(error)}")

    def enough(self, what: str, seconds: float) -> bool:
        """Whether that many seconds are left; a row says that `what` was not reached where they are not."""
        if self.left() >= seconds:
            return True
        self.row(what, f"not reached: {max(0, self.left()):.0f} s left, needs {seconds:g}")
        return False


def _append(path: Path, row: Row) -> None:
    """One write of a whole line to the end of the file, whoever else writes."""
    line = (json.dumps(row) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def rounded(value: object) -> object:
    """Four digits of a figure; JSON has no nan or infinity, so these become words."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def first_line(error: BaseException) -> str:
    """An error's type and the first line of what it says, short enough for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a run; a line that a full disk cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
