"""A live conversation: latency, barge-in, sync as received, bad input, bad networks, real peers.

`--part` chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._common import Result
from benchmarks._live.latency import latency_rows
from tm_core.errors import InputError


def run(*, weights: Path | None = None, device: str = "auto", part: Sequence[str] | None = None) -> list[Result]:
    """The figures of every part, or of those chosen; InputError for a part that is not one."""
    parts: dict[str, Callable[[], list[Result]]] = {"latency": lambda: latency_rows(weights, device)}
    if unknown := set(part or ()) - set(parts):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench live has {', '.join(parts)}", "choose one of them")
    return [row for name in (part or parts) for row in parts[name]()]
