"""docs/gpu.md from the rows of a run."""

from __future__ import annotations

import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from benchmarks._gpu.parts import PARTS
from benchmarks._gpu.record import ROWS, TOOK, Row, read_rows

TABLE = "gpu.md"
FACTS = ("card", "driver", "machine", "commit", "torch", "CUDA of torch", "cuDNN", "python")
MARKS = {True: "yes", False: "**no**", None: ""}
HOW = """# On a GPU

`make gpu` runs every part below, each in a process of its own with its own limit, in at most eight minutes, and needs no network, only
a Python with torch, numpy and safetensors. Results are in `OUT` (default `output/gpu`): `rows.jsonl`, one JSON object for each
figure, written as soon as it is measured; `log.txt`; and `gpu.md`, which is this page. Parts that come later get what time is left.
`make gpu DEVICE=cpu` rehearses all of them at reduced size. `talking-machines bench gpu --part NAME` runs one.

Training takes its stills and its speech from `benchmarks/data/gpu_pack.safetensors`, or from a larger pack of your own inputs that
`python -m benchmarks._gpu.pack` writes to `build/gpu_pack.safetensors` (at most 8 MiB; carry it along).
"""
REHEARSAL = """
**No row of a GPU is here yet.** What follows is a rehearsal on a CPU at reduced size, which shows that every part answers. Its times say
nothing of a GPU, nor of the full shapes, so they are left out: only what had a bar, what is said in words and what was not measured is
listed. "Compiled" is the graph alone, run as it is (aot_eager, eager). The CPU against the CPU is the same machine twice: differences of 0
show that the check ran, no more.
"""


class Table(NamedTuple):
    """The page, and its end for a terminal."""

    page: str
    summary: str


def write_table(out: Path) -> Table:
    """OUT/gpu.md, whatever was measured so far."""
    table = table_of(read_rows(out / ROWS))
    (out / TABLE).write_text(table.page, encoding="utf-8")
    return table


def table_of(rows: list[Row]) -> Table:
    """The rows in order, by part."""
    said = {(row["part"], row["what"]): row["value"] for row in rows}
    device = str(rows[0]["device"]) if rows else "nothing"
    found = {what: said.get(("machine", what)) for what in FACTS}
    facts = ", ".join(f"{what} {value}" for what, value in found.items() if value not in (None, "None"))
    kind = "" if device.startswith("cuda") else REHEARSAL.rstrip()
    head = [HOW.rstrip(), kind, "", f"{datetime.date.today()}, device {device}: {facts}.", ""]
    parts = [(name, list(own)) for name, own in groupby(rows, lambda row: str(row["part"]))]
    head += ["## Parts", "", "| part | seconds | limit | rows | bars met | bars missed or failed |", "|---|---|---|---|---|---|"]
    head += map(_part_line, parts)
    body = [line for name, own in parts for line in _section(name, own if not kind else [row for row in own if _lasting(row)])]
    summary = [*("  ".join(_words(name, own)) for name, own in parts), *_misses(rows)]
    return Table("\n".join([*head, *body]) + "\n", "\n".join(summary))


def _words(name: str, rows: list[Row]) -> tuple[str, ...]:
    took = next((f"{row['value']}" for row in rows if row["what"] == TOOK), "not reached")
    limit = next((f"{p.limit_s:g}" for p in PARTS if p.name == name), "")
    met, missed = (sum(row["ok"] is held for row in rows if row["what"] != TOOK) for held in (True, False))
    return name, took, limit, str(len(rows)), str(met), str(missed)


def _part_line(part: tuple[str, list[Row]]) -> str:
    return f"| {' | '.join(_words(*part))} |"


def _section(name: str, rows: list[Row]) -> list[str]:
    lines = [f"| {_cell(row['what'])} | {_cell(row['value'])} {row['unit']} | {_cell(row['bar'] or '')} | {MARKS[row['ok']]} |"  # type: ignore[index]
             for row in rows if row["what"] != TOOK]
    return ["", f"## {name}", "", "| what | value | bar | met |", "|---|---|---|---|", *lines]


def _lasting(row: Row) -> bool:
    """Whether a rehearsal's row says something of another machine."""
    return row["ok"] is not None or isinstance(row["value"], str)


def _misses(rows: list[Row]) -> list[str]:
    return [f"MISS {row['part']}: {row['what']}: {row['value']} {row['unit']} (bar {row['bar']})" for row in rows if row["ok"] is False]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
