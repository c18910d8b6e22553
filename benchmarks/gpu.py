"""Everything a GPU run measures (or whatever --device says): ceilings, correctness, kernels, the 14B and 18B shapes, memory, training.

Needs torch, numpy and safetensors only, so it runs on a bare machine: `make gpu` is `python -m benchmarks.gpu`. Each part (see
benchmarks/_gpu/parts.py) runs in a process of its own; `--part` chooses among them. On a CPU all parts run at reduced size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks._gpu.parts import LIMIT_S, PARTS
from benchmarks._gpu.runner import Part, run_parts
from benchmarks._gpu.table import write_table
from tm_core.errors import InputError

Result = dict[str, object]


def run(*, weights: Path | None = None, device: str = "auto", part: Sequence[str] | None = None) -> list[Result]:
    """Rows of what was measured; the first says on which device. InputError for a part that is not one."""
    chosen, parts = chosen_device(device), chosen_parts(part)
    with tempfile.TemporaryDirectory() as folder:
        rows = run_parts(parts, out=Path(folder), device=chosen, limit_s=LIMIT_S, weights=weights)
    return [{"what": "device", "value": chosen, "unit": "", "bar": None, "ok": None}, *(_figure(row) for row in rows)]


def chosen_device(device: str) -> str:
    """The device to measure; InputError where there is none."""
    there = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if there else "cpu"
    if device.startswith("cuda") and not there:
        raise InputError("device", device, "torch sees no CUDA device here", "use DEVICE=cpu to rehearse at reduced size")
    return "cuda:0" if device == "cuda" else device


def chosen_parts(names: Sequence[str] | None) -> list[Part]:
    """All parts, or those that are named, in their own order."""
    if unknown := set(names or ()) - {p.name for p in PARTS}:
        known = ", ".join(p.name for p in PARTS)
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench gpu has {known}", "choose one of them")
    return [p for p in PARTS if names is None or p.name in names]


def _figure(row: Result) -> Result:
    """A row as benches give it."""
    return {"what": f"{row['part']}: {row['what']}", **{k: row[k] for k in ("value", "unit", "bar", "ok")}}


def main(arguments: Sequence[str] | None = None) -> int:
    """`make gpu`: rows, log and table into a folder; 0 where every part answered and met its bars."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--device", default="cuda")
    parse.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of the whole run")
    parse.add_argument("--part", action="append")
    given = parse.parse_args(arguments)
    try:
        device, parts = chosen_device(given.device), chosen_parts(given.part)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        rows = run_parts(parts, out=given.out, device=device, limit_s=given.limit)
    finally:
        table = write_table(given.out)
    print(table.summary)
    return 0 if all(row["ok"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
