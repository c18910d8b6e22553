"""`bench scorer`: every shift is looked for, cuts are late by what they say, bars, and a clone without corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import scorer
from benchmarks._corpus import RATE, Sound
from tm_core.metrics.active_speaker import FaceScore

SCORE = FaceScore(sync_c=1.0, sync_d=9.0, offset_frames=0, lip_r=0.7, confidence=1.7)


def tally(near: int = 10, picked: int = 20) -> scorer.Tally:
    """Ten offsets and twenty decisions, of which so many are right."""
    decided = [i < picked for i in range(20)]
    return scorer.Tally(
        offsets=[(5, 5 if i < near else 9, 9) for i in range(10)], talking=decided[:10], listening=decided[10:], net_alone=decided,
        matched=[True], right=[SCORE], wrong=[SCORE], segments=[0.9], unspoken=[False])


def test_every_shift_is_looked_for_twice() -> None:
    shifts = [s for pair in range(scorer.PAIRS) for own in scorer.shifts_of(pair) for s in own]
    assert sorted(shifts) == sorted([s for s in range(-15, 16) if s] * 2)


def test_a_late_picture_shows_what_was_said_before() -> None:
    sound = Sound(name="ramp", real=False, samples=np.arange(4 * RATE, dtype=np.float32), phones=[])
    in_time, late = scorer.cut(sound, 50), scorer.cut(sound, 50, late=15)
    assert len(in_time) == len(late) == 2 * RATE
    assert late[0] - in_time[0] == 15 * RATE / 25  # the picture of in_time[0] comes with a sound of 0.6 s later


@pytest.mark.parametrize(
    ("found", "missed"),
    [(tally(), []), (tally(near=8), ["offset right within a frame"]), (tally(picked=18), ["right speaker picked"])],
    ids=["good", "offsets", "speakers"])
def test_bars(found: scorer.Tally, missed: list[str]) -> None:
    rows = scorer.summary(found, 5.0, 3)
    assert [r["what"] for r in rows if r["ok"] is False] == missed and sum(r["bar"] is not None for r in rows) == 2


def test_without_corpora_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TM_CORPUS", str(tmp_path))
    rows = scorer.run()
    assert [(r["value"], r["ok"]) for r in rows] == [("not measured", None)]
