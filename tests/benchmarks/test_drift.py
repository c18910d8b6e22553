"""`bench drift`: which minutes are measured, what they say, and one short run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import drift
from benchmarks._corpus import RATE, Sound
from tm_core.errors import InputError
from tm_core.metrics.drift import DriftMeter

FPS = 25


@pytest.mark.parametrize(
    ("seconds", "parts", "part_s", "measured"),
    [(1800.0, 30, 60.0, (0, 5, 10, 15, 20, 25, 29)), (300.0, 5, 60.0, (0, 1, 2, 3, 4)), (9.0, 3, 3.0, (0, 1, 2))],
    ids=["half an hour", "five minutes", "short"])
def test_the_plan_measures_first_and_last(seconds: float, parts: int, part_s: float, measured: tuple[int, ...]) -> None:
    plan = drift.Plan.of(seconds)
    assert (plan.parts, plan.part_s, plan.measured) == (parts, part_s, measured)
    ends = [plan.frames(i, FPS) for i in range(plan.parts)]
    assert ends[0].start == 0 and ends[-1].stop == round(seconds * FPS)
    assert all(a.stop == b.start for a, b in pairwise(ends))


def test_measured_minutes_speak_the_same_words() -> None:
    plan = drift.Plan(part_s=1.0, parts=14)
    sounds = [Sound(name=str(i), real=True, samples=np.full(RATE, i / 10, np.float32), phones=[]) for i in range(3)]
    said = drift.spoken(plan, sounds).samples.reshape(plan.parts, RATE)[:, 0]
    assert {float(said[i]) for i in plan.measured} == {0.0}
    assert {round(float(v), 1) for i, v in enumerate(said) if i not in plan.measured} == {0.1, 0.2}


@dataclass
class FakeStream:
    """Chunks of 12 frames that hold their own index, without a face."""

    num_frames: int
    meta: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.meta = SimpleNamespace(fps=Fraction(FPS), total_frames=self.num_frames, duration_s=self.num_frames / FPS)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        for first in range(0, self.num_frames, 12):
            frames = np.arange(first, min(first + 12, self.num_frames)).astype(np.uint8)
            yield SimpleNamespace(pts=first, frames=np.broadcast_to(frames[:, None, None, None], (len(frames), 64, 64, 3)))


def watch(num_frames: int) -> drift.Watch:
    sound = Sound(name="x", real=True, samples=np.zeros(RATE, np.float32), phones=[])
    return drift.Watch(
        plan=drift.Plan(part_s=1.0, parts=4), sound=sound, stream=FakeStream(num_frames), meter=DriftMeter(fps=FPS), name="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("num_frames", [100, 101, 97], ids=["whole", "one more", "a little less"])
def test_every_frame_is_in_its_minute(num_frames: int) -> None:
    parts: dict[int, list[int]] = {}
    for part, frames, _ in watch(num_frames)._pieces():
        parts.setdefault(part, []).extend(frames[:, 0, 0, 0].tolist())
    assert [i for part in sorted(parts) for i in parts[part]] == list(range(num_frames))
    assert parts[0] == list(range(25)) and parts[3][0] == 75


def test_a_video_without_a_face_is_an_error() -> None:
    seen = watch(26)
    with pytest.raises(InputError, match="no face"):
        seen.run()
    assert len(seen.sheet) == drift.SHEET


@pytest.mark.slow
def test_a_short_run(held_corpus: Path, tmp_path: Path) -> None:
    results = drift.run(seconds=3.6, out=tmp_path)
    what = [r["what"] for r in results]
    for mode in ("per_step", "clean_rerun"):
        assert sum(w.startswith(f"{mode}: ") and w.endswith("last minute over first") for w in what) == 8
        assert f"{mode}: lip r, first minute minus last" in what
    assert sum(r["bar"] is not None for r in results) == 16
    assert (tmp_path / "drift.jpg").is_file()
