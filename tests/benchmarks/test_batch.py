"""`bench batch`: one small run of what it does with 100 items."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import batch


@pytest.mark.slow
def test_killed_batches_are_finished_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "KILLS", 3)
    results = {r["what"]: r for r in batch.run(part=["kill"], items=8)}
    assert results["killed at random"]["value"] == 3
    for what in ("done exactly once", "videos bit-identical to the undisturbed run's"):
        assert results[what]["value"] == 8 and results[what]["ok"], results
    assert results["half-written after a kill"]["value"] == 0 == results["files besides the videos at the end"]["value"]


def test_a_cut_video_does_not_count_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(random.Random(0).randbytes(4000))
    assert not batch.plays(path) and batch.broken_files(tmp_path) == 1


def test_items_are_short_and_different(tmp_path: Path) -> None:
    setting = batch.Setting(folder=tmp_path, weights=None, cores=(0,), items=8)
    names = batch.write_manifest(setting)
    assert len(set(names)) == 8 and len(set(batch.hashes(tmp_path).values())) == 8 + 4
