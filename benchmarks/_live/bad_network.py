"""A bad network between server and peer (`wire`; needs root and iproute2): what is lost, late and silent is got over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._common import ROOT, Result, result
from benchmarks._live.claps import Clap
from benchmarks._live.serving import Served, model_options
from benchmarks._live.sync import sync_figures
from benchmarks._live.wire import ADDRESSES, Wire, WireConfig, missing

SIZE, SECONDS = 320, 40.0
SILENCE_S, MAX_RECOVERY_S, LONGEST_GAP_S = 1.0, 2.0, 2.0
TOKEN = "bench"


def network_rows(weights: Path | None, device: str, seconds: float = SECONDS) -> list[Result]:
    """A conversation with claps; in its middle the wire is silent for a second."""
    if lacking := missing():
        return [result("bad network: not measured", lacking, "", "measured", False)]
    with Wire() as wire:
        here, there = wire.prefixes
        options = ("--size", str(SIZE), "--clap", "--host", ADDRESSES[0], "--token", TOKEN, *model_options(weights, device))
        with Served(*options, prefix=here) as server:
            far = subprocess.Popen(
                [*there, sys.executable, "-m", "benchmarks._live.far_caller", server.address, TOKEN, str(seconds)], cwd=ROOT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
            assert far.stdout is not None
            assert far.stdout.readline().strip() == "connected"
            time.sleep(seconds / 2)
            wire.silent, silent = True, time.monotonic()
            time.sleep(SILENCE_S)
            wire.silent, back = False, time.monotonic()
            found = json.loads(far.communicate(timeout=seconds + 60)[0])
            alive, log = server.alive(), server.log()
    return network_figures(found, silent, back, alive and "Traceback" not in log)


def network_figures(found: dict[str, list[float]], silent: float, back: float, lives: bool) -> list[Result]:
    """Of what the far caller says: claps, and when pictures and sounds came."""
    claps = [Clap(by_reports_s=r, by_arrival_s=a, arrived=t) for r, a, t in zip(
        found["by_reports"], found["by_arrival"], found["arrived"], strict=True)]
    cfg = WireConfig()
    how = f"{100 * cfg.loss:g} % lost, {1000 * cfg.delay_s:g} ms late, {1000 * cfg.jitter_s:g} ms more or less"
    rows = [result("bad network", how, "each way"), result("the server lives, no traceback", str(lives), "", "= True", lives)]
    for kind in ("pictures", "sounds"):
        came = np.array(found[kind])
        after = came[came > back + 0.05]  # what was on its way before
        recovery = float(after[0]) - back if len(after) else float("inf")
        gap = max(float(np.diff(part).max(initial=0.0)) for part in (came[came < silent], came[came > back + MAX_RECOVERY_S]))
        rows += [
            result(f"{kind} after {SILENCE_S:g} s of silence on the wire, again after", recovery, "s", f"<= {MAX_RECOVERY_S:g} s",
                   recovery <= MAX_RECOVERY_S),
            result(f"longest time without {kind} otherwise", gap, "s", f"<= {LONGEST_GAP_S:g} s", gap <= LONGEST_GAP_S)]
    return [*rows, *sync_figures("bad network", claps, claps[0].arrived if claps else 0.0, 1.0)]
