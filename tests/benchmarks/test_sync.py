"""`bench sync`: the bars of known pairs, and one small run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import sync
from tm_core.metrics.lip_sync import ClosureMatch, SilenceScore, SyncScore


def pair(r: float, wrong: float = 0.3) -> sync.Pair:
    silence = SilenceScore(pause_gap=0.01, speech_gap=0.05, rest_gap=0.01, ratio=0.2, ratio_above_rest=0.0, pause_s=1.0)
    right = SyncScore(lag_frames=0, peak_r=r, r_at_zero=r, peak_minus_median=r)
    return sync.Pair(
        right=right, truth=replace(right, peak_r=0.9), wrong=(0.1, wrong), silence=silence, truth_silence=silence,
        closures=ClosureMatch(matched=9, count=10, at_vowels=0.1), net=None, truth_net=None)


def test_good_pairs_meet_every_bar() -> None:
    results = sync.summary([pair(0.8)] * 10, 4)
    assert sum(r["bar"] is not None for r in results) == 6
    assert all(r["ok"] is not False for r in results)


@pytest.mark.parametrize(
    ("pairs", "missed"),
    [
        ([pair(0.7)] * 10, "share of the generator's clip"),
        ([pair(0.8, wrong=0.6)] * 10, "right above the best wrong sound, median"),
        ([replace(pair(0.8), closures=ClosureMatch(matched=7, count=10, at_vowels=0.1))] * 10, "of these the model's close"),
    ],
    ids=["share", "margin", "closures"])
def test_what_misses_a_bar(pairs: list[sync.Pair], missed: str) -> None:
    assert [r["what"] for r in sync.summary(pairs, 4) if r["ok"] is False] == [missed]


@pytest.mark.slow
def test_a_small_run(held_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "PAIRS", 2)
    results = sync.run(seconds=3.0, out=tmp_path)
    what = {r["what"] for r in results}
    assert {"share of the generator's clip", "of these the model's close", "Sync-C, mean", "Sync-D of the generator's clip, mean"} <= what
    assert len(list(tmp_path.glob("*.mp4"))) == 2
