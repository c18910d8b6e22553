"""The project's own CUDA tests, where pytest is installed; on a machine without CUDA each of them is skipped, and counted as that."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

from benchmarks._gpu.record import Recorder
from benchmarks._gpu.runner import ROOT

FILES = ("tests/streaming/test_cuda.py",)  # none of them imports what a bare machine lacks


def run(told: Recorder) -> None:
    """How many passed, were skipped and failed."""
    if importlib.util.find_spec("pytest") is None:
        told.unable("tests marked gpu", "pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, told.left()), check=False)
    print(done.stdout, done.stderr)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|skipped|failed|errors?)\b", done.stdout)}
    words = ", ".join(f"{n} {word}" for word, n in counts.items())
    told.row("tests marked gpu", words or "none found", "", "none fails", done.returncode == 0)
    if told.cuda:
        told.true("tests marked gpu: they ran", counts.get("passed", 0) > 0)
