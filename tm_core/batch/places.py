"""Where a batch writes: the files beside the videos, and which names videos may not have.

Non-goals: how a name is written in a manifest (manifest), writing (ledger, run).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..outputs import APART, Limits, Named, check_place, collisions, part_of

STAGING, LEDGER, REPORT = ".batch", "ledger.jsonl", "report.json"
STAGED = 48  # letters of the longest name in the staging folder


def check_folder(out: Path, field: str = "out") -> None:
    """InputError unless a folder can hold a batch; makes nothing."""
    check_place(out, field)
    for path in (out / LEDGER, out / REPORT):
        if path.is_dir():
            raise InputError(field, out, f"{path} is a folder, and is to be written", "choose another folder")
    if Limits.of(out).exceeded(out / STAGING / ("x" * STAGED)):
        raise InputError(field, out, "is a name too long for this disk", "choose a shorter one")


def misplaced(
    reads: Sequence[tuple[int, Path]], outs: Sequence[tuple[int, str]], out: Path, also_read: Sequence[Named] = (),
) -> Iterator[tuple[int, str]]:
    """(line, why) of videos that would be written over a file of the run or over each other, or have names too long for the disk.

    `reads` are (line, file), `outs` (line, name in the folder `out`). InputError where an input is one of the batch's own files.
    """
    own: list[Named] = [("the batch", path) for path in (out / LEDGER, out / REPORT, part_of(out / REPORT), out / STAGING)]
    named = [*also_read, *((f"line {line}", path) for line, path in reads)]
    writes = [*own, *((f"line {line}", out / name) for line, name in outs)]
    for index, rule in collisions(named, writes, part=lambda path: path):  # unfinished videos are in the staging folder
        if index < len(own):
            raise InputError("out", writes[index][1], rule, APART)
        line, name = outs[index - len(own)]
        yield line, f"out: {name}: {rule}; give it a name of its own"
    limits = Limits.of(out)
    for line, name in outs:
        if limits.exceeded(out / name):
            yield line, f"out: {name[:40]}...: is a name too long for this disk; choose a shorter one"
