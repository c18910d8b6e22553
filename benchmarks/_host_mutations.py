"""Values of widgets that no browser sends, in the shipped graph and a running ComfyUI: `bench mutations --part host`.

A graph is queued with one or two widgets of this pack's nodes changed by a seed. The queue refuses it, a node of this pack
ends it with an InputError of one line, or a video comes out; else it is a miss, as it is when the server does not answer after.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from benchmarks.host import _graph
from parity.comfyui import Host, HostError

SHARE = 5  # one graph for as many files
LENGTH_S, MOST_S = 0.3, 60.0
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**300, 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), "", " ",
    "0", "auto", "nan", "\x00", "\ud800", "\u202e", "x" * 10**5, "../../x", "/etc/passwd", "C:\\x", "\\\\h\\s", "%year%%", [], [None],
    ["1", 7], ["99", 0], ["7", -1], ["1", "0"], [[]], {}, {"a": 1}, {"__value__": [1]}, {"__value__": None}, "tiny.safetensors",
    "cuda:99", "bundled\n")


def tried_in_host(each: int) -> list[dict[str, Any]]:
    """The outcome of each / SHARE graphs."""
    outcomes = list[dict[str, Any]]()

    class Server(Host):
        """The host; numbers that are none are sent too, which its own requests refuse."""

        def post(self, path: str, body: dict[str, Any]) -> Any:
            return self._checked(requests.post(self.url + path, data=json.dumps(body), timeout=60))

    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder, Server(Path(folder)) as host:
        graph = _graph(host, Path(folder), LENGTH_S)
        for number in range(max(1, each // SHARE)):
            outcomes.append(_outcome(host, changed(graph, number), number))
            if not _alive(host):
                outcomes.append({"number": number, "outcome": "miss", "why": f"the server ended: {host.log(3)}"})
                host.restart()
    return outcomes


def changed(graph: dict[str, Any], number: int) -> dict[str, Any]:
    """The graph with one or two widgets changed."""
    rng = random.Random(f"host {number}")
    copy = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    places = [(key, name) for key, node in graph.items() if node["class_type"].startswith("TM_") for name in node["inputs"]]
    for key, name in rng.sample(places, rng.choice((1, 1, 2))):
        copy[key]["inputs"][name] = rng.choice(VALUES)
    return copy


def _outcome(host: Any, graph: dict[str, Any], number: int) -> dict[str, Any]:
    began, before = time.monotonic(), _unfinished(host)
    outcome, why = "refused", None
    try:
        job = host.run(graph, timeout_s=MOST_S)
        outcome, why = ("answer", None) if job.status == "success" else ("refused", _fault(job))
    except HostError as refused:
        why = None if ": 400: " in str(refused) else str(refused)[:300]
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[:300]
    if left := _unfinished(host) - before:
        why = why or f"left behind: {', '.join(sorted(left))}"
    return {"number": number, "outcome": "miss" if why else outcome, "why": why, "seconds": time.monotonic() - began}


def _fault(job: Any) -> str | None:
    """What is wrong with how a job failed, None for nothing."""
    failed = job.of("execution_error")
    if not failed:
        return "failed without a word"
    data = failed[0].data
    message = str(data["exception_message"]).strip()
    fine = "InputError" in data["exception_type"] and message.isprintable() and ";" in message
    return None if fine else f"{data['node_type']}: {data['exception_type']}: {message[:200]!r}"


def _unfinished(host: Any) -> set[str]:
    return {p.name for p in host.output_dir.rglob("*") if p.name.endswith(".part")} | {
        p.name for p in (host.base / "temp").rglob("*") if p.name.endswith(".part")}


def _alive(host: Any) -> bool:
    try:
        return bool(host.get("/system_stats"))
    except Exception:
        return False
