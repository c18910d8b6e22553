"""A live conversation: latency, barge-in, bad input, connects, sessions, sync as received, lips, answers, a bad network, look-ahead.

`--part` chooses among them. The live avatar alone (latency, lookahead) or the server of `serve` in a process of its own, with real
peers: aiortc's, and Chromium where a page is meant. `--minutes` is how long the claps of sync go on: 60 for the hour with its drift.
`--out` takes the table of lookahead. Measure it alone on the machine: times are what it is about. lookahead needs the corpora
(build/corpus, or where TM_CORPUS says), network needs root and iproute2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._common import Result, say
from benchmarks._live.answer import answer_rows
from benchmarks._live.bad_input import badinput_rows
from benchmarks._live.bad_network import network_rows
from benchmarks._live.bargein import bargein_rows
from benchmarks._live.connects import connect_rows
from benchmarks._live.latency import latency_rows
from benchmarks._live.look_ahead import look_ahead_rows
from benchmarks._live.recorded_lips import lips_rows
from benchmarks._live.sync import MINUTES, sync_rows
from benchmarks._live.two_sessions import session_rows
from tm_core.errors import InputError

Part = Callable[[Path | None, str], list[Result]]


def run(
    *, weights: Path | None = None, device: str = "auto", part: Sequence[str] | None = None, minutes: float | None = None,
    out: Path | None = None,
) -> list[Result]:
    """The figures of every part, or of those chosen; InputError for a part that is not one."""
    parts: dict[str, Part] = {
        "latency": latency_rows, "bargein": bargein_rows, "badinput": badinput_rows, "connects": connect_rows, "sessions": session_rows,
        "sync": lambda w, d: sync_rows(w, d, minutes or MINUTES), "lips": lips_rows, "answer": answer_rows, "network": network_rows,
        "lookahead": lambda w, d: look_ahead_rows(w, d, out=out)}
    if unknown := set(part or ()) - set(parts):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench live has {', '.join(parts)}", "choose one of them")
    rows: list[Result] = []
    for name in part or parts:
        say(name)
        rows += parts[name](weights, device)
    return rows
