"""Runs parts one after the other, each in a process of its own with its own limit; one that raises, hangs or is killed costs only itself.

`python -m benchmarks._gpu.runner PART TARGET ...` is that process. Non-goals: what is measured (the parts), which (parts.py).
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks._gpu.record import ROWS, TOOK, Recorder, Row, read_rows

ROOT = Path(__file__).resolve().parents[2]
LOG = "log.txt"
SAID_ITSELF = 70  # exit code of a part that has written its own error's row
MARGIN_S = 2.0  # before its limit, in which a part that watches the time ends by itself
KILL_WAIT_S = 10.0  # for a killed process to be gone; one that hangs in its driver is left


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to run: `target` is MODULE:FUNCTION, which takes a Recorder."""

    name: str
    target: str
    limit_s: float
    least_s: float = 5.0  # with less time left it is not begun


def run_parts(
    parts: Sequence[Part], *, out: Path, device: str, limit_s: float, weights: Path | None = None, python: str = sys.executable,
) -> list[Row]:
    """All rows; they are in OUT/rows.jsonl as well, each from the moment it was measured. Later parts get what time is left."""
    out, weights = out.resolve(), weights and weights.resolve()  # parts run in the project's folder
    out.mkdir(parents=True, exist_ok=True)
    rows, started = out / ROWS, time.monotonic()
    rows.write_text("")
    with (out / LOG).open("wb") as log, tempfile.TemporaryDirectory(prefix="tm-gpu-") as scratch, _told_to_stop():
        for part in parts:
            left = started + limit_s - time.monotonic()
            told = Recorder(path=rows, part=part.name, device=device, started=started, ends=time.monotonic() + left, weights=weights)
            if left < part.least_s:
                told.row("part", f"not reached: {max(0, left):.0f} s left, needs {part.least_s:g}")
                continue
            _say(log, f"== {part.name}, at {time.monotonic() - started:.0f} s")
            _run_part(part, min(part.limit_s, left), told, log, python, Path(scratch))
    return read_rows(rows)


def _run_part(part: Part, seconds: float, told: Recorder, log: IO[bytes], python: str, scratch: Path) -> None:
    """One part in its own process group, whose end is a row however it comes."""
    command = [
        python, "-m", "benchmarks._gpu.runner", part.name, part.target, "--device", told.device, "--rows", str(told.path),
        "--started", repr(told.started), "--seconds", repr(max(1.0, seconds - MARGIN_S))]
    command += ["--weights", str(told.weights)] if told.weights else []
    began = time.monotonic()
    child = subprocess.Popen(
        command, cwd=ROOT, env=_environment(scratch, told.device), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True)
    try:
        ended = _words(child.wait(seconds))
    except subprocess.TimeoutExpired:
        ended = f"stopped: did not end within {seconds:.0f} s"
    except KeyboardInterrupt:
        told.row("part", "stopped: the run was told to end", "", None, False)
        raise
    finally:
        _kill(child)
    if ended:
        told.row("part", ended, "", None, False)
    told.row(TOOK, time.monotonic() - began, "s", f"<= {part.limit_s:g}", child.returncode == 0)


def _environment(scratch: Path, device: str) -> dict[str, str]:
    """The child's: it finds the project, writes what it says at once, and keeps compiled kernels for the next part.

    A rehearsal on the CPU has one thread: a second one spins while it waits for a core that something else uses.
    """
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"), "TRITON_CACHE_DIR": str(scratch / "triton")}
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    return {**os.environ, **threads, **caches, **own}


def _words(code: int) -> str:
    """What a process's end says that the process did not."""
    if code in (0, SAID_ITSELF):
        return ""
    return f"killed by {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"failed: ended with code {code}, see {LOG}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The process and all it started: compilers, loaders."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(KILL_WAIT_S)


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM ends the run as an interrupt does: the part in work is killed, what was measured stays."""
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever runs us there has its own signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(log: IO[bytes], line: str) -> None:
    log.write((line + "\n").encode())
    log.flush()
    print(line, flush=True)


# -- in the part's process ----------------------------------------------------------------------------------


def work(arguments: Sequence[str] | None = None) -> int:
    """Run one part; what it raises becomes a row."""
    parse = argparse.ArgumentParser()
    parse.add_argument("part")
    parse.add_argument("target")
    for name, kind in (("device", str), ("rows", Path), ("started", float), ("seconds", float)):
        parse.add_argument(f"--{name}", type=kind, required=True)
    parse.add_argument("--weights", type=Path)
    given = parse.parse_args(arguments)
    told = Recorder(
        path=given.rows, part=given.part, device=given.device, started=given.started, ends=time.monotonic() + given.seconds,
        weights=given.weights)
    module, function = given.target.split(":")
    try:
        if told.cuda:
            importlib.import_module("torch").cuda.set_device(told.device)
        getattr(importlib.import_module(module), function)(told)
    except BaseException as error:  # an exit or an interrupt inside a part is an error of that part
        traceback.print_exc()
        told.failed("part", error)
        return SAID_ITSELF
    return 0


if __name__ == "__main__":
    sys.exit(work())
