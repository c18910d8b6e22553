"""What is loaded when: GPU machines stream without sound, picture and video libraries; the command line loads what a command needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STREAMING = (
    "tm_core.audio.features", "tm_core.audio.windows", "tm_core.families.settings", "tm_core.streaming.clip_sampler",
    "tm_core.streaming.compressed_sampler", "tm_core.streaming.handles", "tm_core.streaming.pipeline", "tm_core.streaming.sampler",
    "tm_core.vae.taehv", "tm_core.vae.tiny", "tm_core.vae.wan", "tm_core.weights.loading", "tm_core.weights.open_models",
)
FEATURES = "import numpy as np; from tm_core.config import AudioConfig; log_mel = sys.modules['tm_core.audio.features'].log_mel; " \
    "assert log_mel(np.ones(1600, np.float32), AudioConfig()).shape == (10, 80)"
MODEL = "assert sys.modules['tm_core.weights.loading'].load_model().vae is not None"


def loaded(root: Path, modules: tuple[str, ...], then: str = "") -> set[str]:
    """Names of the packages that a fresh interpreter has after importing modules and running a statement."""
    code = f"import sys; import {', '.join(modules)}; {then or 'pass'}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    return set(done.stdout.split())


def test_streaming_needs_no_library_of_sound_pictures_or_video(repo_root: Path) -> None:
    names = loaded(repo_root, STREAMING, f"{FEATURES}; {MODEL}")
    assert {"torch", "numpy"} <= names
    assert not names & {"librosa", "scipy", "av", "PIL", "numba", "psutil"}


def test_animate_loads_neither_librosa_nor_scipy(repo_root: Path) -> None:
    names = loaded(repo_root, ("tm_core.cli.video_job",), FEATURES)
    assert {"torch", "av", "PIL"} <= names
    assert not names & {"librosa", "scipy", "numba", "rich"}


@pytest.mark.parametrize("module", ["tm_core.cli.commands", "tm_core.cli.argument_checks"])
def test_options_are_checked_without_heavy_libraries(repo_root: Path, module: str) -> None:
    assert not loaded(repo_root, (module,)) & {"torch", "numpy", "av", "PIL", "scipy", "librosa"}
