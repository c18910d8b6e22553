"""A watched server in a process of its own: its address, its events, its log, and what of the machine it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import ROOT

START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a process holds."""

    threads: int
    sockets: int
    files: int
    rss_mb: float


class Served:
    """A running server; a context manager."""

    def __init__(self, *options: str, prefix: Sequence[str] = ()) -> None:
        """`options` of the watched server; `prefix`: a command that runs it, as `ip netns exec NAME`."""
        self._scratch = tempfile.TemporaryDirectory(prefix="tm-bench-")
        self.folder = Path(self._scratch.name)
        self._log = (self.folder / "log.txt").open("w")
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "benchmarks._live.watched_server", str(self.folder), *options], cwd=ROOT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=self._log)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            self._process.wait(START_S)
            raise RuntimeError(f"the server did not start: {self.log()[-2000:]}")

    @property
    def pid(self) -> int:
        """Of the server: a prefix that execs keeps it."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def log(self) -> str:
        """All that it has said on stderr."""
        return (self.folder / "log.txt").read_text()

    def events(self, kind: str | None = None, session: int | None = None, since: float = 0.0) -> list[dict[str, Any]]:
        """Events so far, of one kind, of one session, from a moment on."""
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [e for e in found if (kind is None or e["e"] == kind) and (session is None or e["s"] == session) and e["t"] >= since]

    def said(self, session: int, since: float = 0.0) -> np.ndarray:
        """(n,) of the last answer that was given to say since a moment."""
        event = self.events("said", session, since)[-1]
        return np.asarray(np.load(self.folder / event["file"]))

    def held(self) -> Held:
        """Threads, sockets, other files and resident memory at present."""
        names = []
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            try:
                names.append(os.readlink(entry.path))
            except OSError:  # closed meanwhile
                continue
        sockets = sum(n.startswith("socket:") for n in names)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return Held(
            threads=int(status["Threads"]), sockets=sockets, files=len(names) - sockets, rss_mb=int(status["VmRSS"].split()[0]) / 1024)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._scratch.cleanup()


def wait_until(true: Any, seconds: float) -> float | None:
    """Seconds until it was so; None where it never was."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - began


def model_options(weights: Path | None, device: str) -> list[str]:
    """Of the watched server."""
    return [*(["--weights", str(weights.resolve())] if weights else []), "--device", device]
