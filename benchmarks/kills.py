"""Kills: fifty SIGKILLs at random moments while files are written; the old file or the new whole one is there, and nothing else.

`--part` chooses among animate, batch, train (a checkpoint that is saved all the time) and host (TM_SaveStream in ComfyUI).
Moments follow from a seed; what a job had done by then is the machine's. Batches are those of `bench batch`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import batch
from benchmarks._common import ROOT, Result, demo_portrait, result, say, speech_of, write_wav
from benchmarks.host import _graph
from tm_core.errors import InputError
from tm_core.outputs import PART, part_of

KILLS = {"animate": 20, "batch": 10, "train": 15, "host": 5}
BATCH_ITEMS, SECONDS, SEED = 22, 1.0, 20
START_S = 120.0
CHECKPOINTS = """
import sys, torch
from pathlib import Path
from tm_core.train.checkpoint import Average, load_checkpoint, save_checkpoint
path, steps = Path(sys.argv[1]), int(sys.argv[2])
module = torch.nn.Linear(1000, 1000)
average, optimiser = Average(module), torch.optim.AdamW(module.parameters())
start = load_checkpoint(path, module, average, optimiser)["step"] if path.is_file() else 0
for step in range(start + 1, start + steps + 1):
    save_checkpoint(path, module, average, optimiser, {"step": step})
"""


def run(*, part: Sequence[str] | None = None, kills: dict[str, int] | None = None) -> list[Result]:
    """Counts of every kind of job, or of those chosen."""
    counts = kills or KILLS
    if unknown := set(part or ()) - set(counts):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench kills has {', '.join(counts)}", "choose one of them")
    rows: list[Result] = []
    for name in counts:
        if part and name not in part:
            continue
        if name == "batch":
            rows += [{**r, "what": f"batch: {r['what']}"} for r in batch.run(part=["kill"], items=BATCH_ITEMS, kills=counts[name])]
        else:
            with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
                rows += {"animate": animated, "train": trained, "host": hosted}[name](Path(folder), counts[name])
    return rows


def animated(folder: Path, count: int) -> list[Result]:
    """`animate` over a video that is there."""
    sound = write_wav(folder / "voice.wav", speech_of(SECONDS))
    (folder / "out").mkdir()
    target = folder / "out" / "a.mp4"
    command = [*batch.cli(), "animate", "--image", str(demo_portrait()), "--audio", str(sound), "--out", str(target), "--quiet"]
    return _killed("animate", command, target, count, batch.plays)


def trained(folder: Path, count: int) -> list[Result]:
    """A checkpoint that is saved again and again."""
    from tm_core.train.checkpoint import read_info

    (folder / "out").mkdir()
    target = folder / "out" / "c.safetensors"
    steps: list[int] = []

    def whole(path: Path) -> bool:
        steps.append(int(read_info(path)["step"]))
        return steps == sorted(steps)

    command = [sys.executable, "-c", CHECKPOINTS, str(target)]
    return _killed("train", [*command, "1000000"], target, count, whole, end=[*command, "3"])


def _killed(
    name: str, command: Sequence[str], target: Path, count: int, whole: Callable[[Path], bool], end: Sequence[str] | None = None,
) -> list[Result]:
    """Figures of one command that writes `target` and is killed `count` times, then left to finish (by `end`)."""
    rng, less, strangers = random.Random(f"{SEED} {name}"), 0, 0
    _finish(end or command)
    for _ in range(count):
        _kill(command, target, rng)
        less += not target.is_file() or not whole(target)
        strangers += len(set(target.parent.iterdir()) - {target, part_of(target)})
    _finish(end or command)
    left = sorted(p.name for p in target.parent.iterdir() if p != target)
    return [
        result(f"{name}: killed", count, "times"),
        result(f"{name}: neither the old file nor the new whole one", less, "times", "= 0", not less),
        result(f"{name}: other files after a kill", strangers, "files", "= 0", not strangers),
        result(f"{name}: left behind by the run after", len(left), "files", "= 0", not left and whole(target))]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def _finish(command: Sequence[str]) -> None:
    subprocess.run(command, env=_environment(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(command: Sequence[str], target: Path, rng: random.Random) -> None:
    """Start, wait until the file is being written and a little longer (one time in five not so long), end it."""
    process = subprocess.Popen(
        command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    early = rng.random() < 0.2
    _until(lambda: process.poll() is not None or part_of(target).exists(), rng.uniform(0.0, 4.0) if early else START_S)
    time.sleep(rng.uniform(0.0, 1.0))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _until(there: Callable[[], bool], most_s: float) -> None:
    deadline = time.monotonic() + most_s
    while not there() and time.monotonic() < deadline:
        time.sleep(0.005)


def hosted(folder: Path, count: int) -> list[Result]:
    """ComfyUI, ended while TM_SaveStream writes; the videos of its output folder, and what the next one leaves."""
    from parity.comfyui import Host

    rng, broken = random.Random(f"{SEED} host"), 0
    host = Host(folder / "host")
    graph: dict[str, Any] | None = None
    for number in range(count):
        with host:
            graph = graph or _graph(host, folder, 20.0)
            graph["7"]["inputs"]["seed"] = number
            host.queue(graph)
            _until(lambda: any(host.output_dir.rglob(f"*{PART}")), START_S)
            time.sleep(rng.uniform(0.0, 3.0))
            os.killpg(host.pid, signal.SIGKILL)
        broken += batch.broken_files(host.output_dir)
        say(f"  ComfyUI ended {number + 1} times")
    with host:
        assert graph is not None
        graph["7"]["inputs"]["seed"] = count
        job = host.run(graph)
    broken += batch.broken_files(host.output_dir)
    left = [p for p in host.output_dir.rglob("*") if p.is_file() and p.suffix != ".mp4"]
    return [
        result("host: killed", count, "times"), result("host: half-written videos", broken, "files", "= 0", not broken),
        result("host: left behind by the job after", len(left), "files", "= 0", not left and job.status == "success")]
