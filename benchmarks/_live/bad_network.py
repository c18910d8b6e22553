"""A bad network between two namespaces of this machine (netem; needs root and iproute2): what is lost, late and silent is got over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks._common import ROOT, Result, result
from benchmarks._live.claps import Clap
from benchmarks._live.serving import Served, model_options
from benchmarks._live.sync import sync_figures

SIZE, SECONDS = 320, 40.0
NETEM = ("delay", "80ms", "30ms", "loss", "2%")
SILENCE_S, MAX_RECOVERY_S, LONGEST_GAP_S = 1.0, 2.0, 2.0
NAMES, ADDRESSES, TOKEN = ("tm-bench-a", "tm-bench-b"), ("10.77.15.1", "10.77.15.2"), "bench"


def network_rows(weights: Path | None, device: str, seconds: float = SECONDS) -> list[Result]:
    """A conversation with claps; in its middle the wire is silent for a second."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        return [result("bad network: not measured", "needs root, ip and tc (iproute2)", "", "measured", False)]
    with two_hosts() as (here, there):
        bad("add")
        options = ("--size", str(SIZE), "--clap", "--host", ADDRESSES[0], "--token", TOKEN, *model_options(weights, device))
        with Served(*options, prefix=here) as server:
            far = subprocess.Popen(
                [*there, sys.executable, "-m", "benchmarks._live.far_caller", server.address, TOKEN, str(seconds)], cwd=ROOT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
            assert far.stdout is not None
            assert far.stdout.readline().strip() == "connected"
            time.sleep(seconds / 2)
            bad("change", "loss", "100%")
            silent = time.monotonic()
            time.sleep(SILENCE_S)
            bad("change")
            back = time.monotonic()
            found = json.loads(far.communicate(timeout=seconds + 60)[0])
            alive, log = server.alive(), server.log()
    return network_figures(found, silent, back, alive and "Traceback" not in log)


def network_figures(found: dict[str, list[float]], silent: float, back: float, lives: bool) -> list[Result]:
    """Of what the far caller says: claps, and when pictures and sounds came."""
    claps = [Clap(by_reports_s=r, by_arrival_s=a, arrived=t) for r, a, t in zip(
        found["by_reports"], found["by_arrival"], found["arrived"], strict=True)]
    rows = [result("bad network", " ".join(NETEM), "each way"), result("the server lives, no traceback", str(lives), "", "= True", lives)]
    for kind in ("pictures", "sounds"):
        came = np.array(found[kind])
        after = came[came > back + 0.05]  # what was on its way before
        recovery = float(after[0]) - back if len(after) else float("inf")
        calm = came[(came < silent) | (came > back + MAX_RECOVERY_S)]
        gaps = np.diff(calm)
        gap = float(gaps[gaps < back + MAX_RECOVERY_S - silent].max(initial=0.0))
        rows += [
            result(f"{kind} after {SILENCE_S:g} s of silence on the wire, again after", recovery, "s", f"<= {MAX_RECOVERY_S:g} s",
                   recovery <= MAX_RECOVERY_S),
            result(f"longest time without {kind} otherwise", gap, "s", f"<= {LONGEST_GAP_S:g} s", gap <= LONGEST_GAP_S)]
    return [*rows, *sync_figures("bad network", claps, claps[0].arrived if claps else 0.0, 1.0)]


@contextmanager
def two_hosts() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Prefixes of commands that run in either namespace; both are gone afterwards."""
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    try:
        for name in NAMES:
            _ip("netns", "add", name)
        _ip("link", "add", "tmb0", "netns", NAMES[0], "type", "veth", "peer", "name", "tmb1", "netns", NAMES[1])
        for name, device, address in zip(NAMES, ("tmb0", "tmb1"), ADDRESSES, strict=True):
            for words in (("addr", "add", f"{address}/24", "dev", device), ("link", "set", device, "up"), ("link", "set", "lo", "up")):
                _ip("-n", name, *words)
        yield ("ip", "netns", "exec", NAMES[0]), ("ip", "netns", "exec", NAMES[1])
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def bad(verb: str, *words: str) -> None:
    """Make the wire bad, both ways, by other words than NETEM where there are some."""
    for name, device in zip(NAMES, ("tmb0", "tmb1"), strict=True):
        subprocess.run(["ip", "netns", "exec", name, "tc", "qdisc", verb, "dev", device, "root", "netem", *(words or NETEM)], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
