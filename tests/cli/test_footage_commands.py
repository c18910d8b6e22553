"""`data prepare` as a user runs it; what it finds is tested in tests/train/footage."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tm_core.media.video_io import VideoWriter

pytest.importorskip("scenedetect", reason="scenedetect: not installed; pip install 'talking-machines[data]'")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video without anybody, and one that is none."""
    (tmp_path / "in").mkdir()
    with VideoWriter(tmp_path / "in" / "wall.mp4", 64, 64, 25) as video:
        video.write(np.full((110, 64, 64, 3), 120, np.uint8))
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    return tmp_path / "in"


def test_table_then_json(cli: Run, folder: Path, tmp_path: Path) -> None:
    done = cli("data", "prepare", folder, "--out", tmp_path / "out", "--set", "sync=lips")
    assert done.returncode == 0, done.stderr
    assert "no_face" in done.stdout and "unusable: bad.mp4" in done.stdout
    assert "wall.mp4: 0.0-4.2 s no_face" in done.stderr
    again = cli("data", "prepare", folder, "--out", tmp_path / "out", "--set", "sync=lips", "--json")
    report = json.loads(again.stdout)
    assert report["done_now"] == 0 and report["sources"] == 2 and report["kept"] == 0
    assert report["dropped"]["no_face"]["clips"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([".", "--out", "x"], "no videos in it"), (["FOLDER", "--set", "many=1"], "no such threshold"),
    ])
def test_bad_input_is_one_line(cli: Run, folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    named = {"FOLDER": str(folder), "x": str(tmp_path / "x"), ".": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    done = cli("data", "prepare", *(named.get(a, a) for a in arguments))
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "x").exists()


def test_thresholds_are_listed(cli: Run) -> None:
    done = cli("data", "thresholds")
    assert done.returncode == 0 and "min_seconds=4.0" in done.stdout
