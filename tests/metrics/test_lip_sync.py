"""The scorer on a clip whose lips are known to follow its sound, and on curves with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.metrics.lip_sync import (
    bridged,
    closure_score,
    closures_matched,
    lip_gap,
    margin_score,
    opening_curve,
    pauses,
    shifted_curves,
    silence_score,
    sync_score,
)
from tm_core.metrics.phones import Phone

from .conftest import FPS, Clip


@pytest.fixture(scope="module")
def gap(clip: Clip, mesh: FaceMesh) -> np.ndarray:
    return lip_gap(mesh.landmarks_batch(clip.frames))


@pytest.fixture(scope="module")
def opening(clip: Clip) -> np.ndarray:
    return opening_curve(clip.phones, clip.samples, len(clip.frames), FPS)


def test_the_right_sound_is_in_step(gap: np.ndarray, opening: np.ndarray) -> None:
    score = sync_score(gap, opening, FPS)
    assert abs(score.lag_frames) <= 1
    assert score.peak_r > 0.6 and score.r_at_zero > 0.55
    assert score.peak_minus_median > 0.5


@pytest.mark.parametrize("delay", [-4, 5, 9])
def test_a_delay_is_found(delay: int, gap: np.ndarray, opening: np.ndarray) -> None:
    """Positive: the picture is late."""
    there = sync_score(gap, opening, FPS).lag_frames
    assert sync_score(np.roll(gap, delay), opening, FPS).lag_frames == pytest.approx(there + delay, abs=1)


def test_wrong_sounds_score_lower(gap: np.ndarray, opening: np.ndarray, clip: Clip) -> None:
    backwards = opening_curve(
        [Phone(p.name, 7.1 - p.end, 7.1 - p.start) for p in clip.phones if p.end < 7.1], clip.samples[:113600][::-1], len(gap), FPS)
    margin = margin_score(gap, opening, [backwards, *shifted_curves(opening, FPS)], FPS)
    assert margin.right > max(margin.wrong)
    assert margin.median_margin > 0.2
    assert margin.least_margin == pytest.approx(margin.right - max(margin.wrong))


def test_a_face_that_only_flaps_is_not_in_step(opening: np.ndarray) -> None:
    flap = 0.02 + 0.02 * np.sin(np.arange(len(opening)) * 2 * np.pi * 4 / FPS)
    assert sync_score(flap, opening, FPS).peak_r < 0.5


def test_a_still_face_scores_zero(opening: np.ndarray) -> None:
    score = sync_score(np.full(len(opening), 0.03), opening, FPS)
    assert score.peak_r == pytest.approx(0.0) and score.peak_minus_median == pytest.approx(0.0)


def test_lips_rest_in_the_pause_and_close_for_p_b_m(gap: np.ndarray, clip: Clip) -> None:
    silence = silence_score(gap, clip.samples, FPS, clip.rest_gap)
    assert silence is not None
    assert silence.pause_s > 0.5
    assert silence.ratio < 0.5 and silence.ratio_above_rest < 0.25
    closure = closure_score(gap, clip.phones, FPS)
    assert closure is not None and closure.count >= 4
    assert closure.closed > 0.7 and closure.closed >= closure.chance


def test_silence_score_sees_lips_that_talk_on(gap: np.ndarray, clip: Clip) -> None:
    moving = gap.copy()
    moving[-25:] = gap[50:75]
    silence = silence_score(moving, clip.samples, FPS, clip.rest_gap)
    assert silence is not None and silence.ratio_above_rest > 0.5


def test_gap_is_the_inner_lips_over_the_face_in_any_pose() -> None:
    points = np.zeros((1, 468, 3))
    points[0, 10, :2], points[0, 152, :2] = (50, 10), (50, 110)
    points[0, 13, :2], points[0, 14, :2] = (50, 80), (50, 90)
    assert lip_gap(points)[0] == pytest.approx(0.1)
    turned = points.copy()
    turned[..., :2] = points[..., :2] @ np.array([[0.8, -0.6], [0.6, 0.8]]) * 3
    assert lip_gap(turned)[0] == pytest.approx(0.1)
    points[0, 13, 1] = 95  # a mesh that crosses the lips says less than nothing
    assert lip_gap(points)[0] < 0


def test_opening_is_wide_for_vowels_shut_for_closures_and_at_rest_in_silence() -> None:
    phones = [Phone("AA", 0.2, 0.6), Phone("M", 0.6, 0.7), Phone("AA", 0.7, 1.0), Phone("SIL", 1.0, 1.6), Phone("IY", 1.6, 2.0)]
    curve = opening_curve(phones, None, 60, FPS)
    assert curve.shape == (60,) and curve.min() >= 0 and curve.max() <= 1
    assert curve[10] > 0.9 and curve[16] < 0.2 and curve[30] < 0.02
    assert 0.3 < curve[45] < 0.6
    samples = np.random.default_rng(0).standard_normal(38400).astype(np.float32) * 0.1
    samples[: 16000 * 3 // 2] = 0  # the recogniser hears vowels where there is no sound
    assert opening_curve(phones, samples, 60, FPS)[:30].max() < 0.05


def test_pauses_are_inside_the_silence_only() -> None:
    samples = np.random.default_rng(0).standard_normal(48000).astype(np.float32) * 0.1
    samples[16000:32000] = 0
    samples[8000:9600] = 0  # 0.1 s: no pause
    still = pauses(samples, 75, FPS)
    assert not still[:25].any() and not still[50:].any()
    assert still[31:44].all()


def test_missing_faces_are_bridged() -> None:
    assert bridged(np.array([np.nan, 1.0, np.nan, 3.0, np.nan])).tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert bridged(np.full(3, np.nan)).tolist() == [0.0, 0.0, 0.0]


def test_lost_frames_do_not_change_the_verdict(gap: np.ndarray, opening: np.ndarray) -> None:
    holes = gap.copy()
    holes[np.random.default_rng(0).random(len(gap)) < 0.1] = np.nan
    assert sync_score(holes, opening, FPS).peak_r == pytest.approx(sync_score(gap, opening, FPS).peak_r, abs=0.1)


def test_slow_motion_of_face_and_loudness_does_not_count() -> None:
    rng = np.random.default_rng(0)
    slow = gaussian_filter1d(rng.standard_normal(500), 40)
    slow = slow / slow.std()
    a, b = rng.standard_normal(500) + 5 * slow, rng.standard_normal(500) + 5 * slow
    assert np.corrcoef(a, b)[0, 1] > 0.8
    assert sync_score(a, b, FPS).r_at_zero < 0.3


def test_clips_too_short_to_judge_are_refused() -> None:
    with pytest.raises(InputError, match="lip sync needs at least 1 s"):
        sync_score(np.zeros(20), np.zeros(20), FPS)


def test_scores_need_what_they_measure() -> None:
    loud = np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    assert silence_score(np.zeros(75), loud, FPS) is None
    assert closure_score(np.zeros(75), [Phone("AA", 0.2, 2.0)], FPS) is None
    assert shifted_curves(np.zeros(50), FPS) == []


def spoken_curve(closed_at: list[float]) -> np.ndarray:
    """(T,) a gap of 0.08 that closes for a fifth of a second at these times (s), four seconds long."""
    times = (np.arange(100) + 0.5) / FPS
    return np.where(np.abs(times[:, None] - np.array(closed_at)).min(1) < 0.07, 0.0, 0.08)


def test_closures_are_matched_where_the_truth_closes() -> None:
    phones = [Phone("P", t - 0.04, t + 0.04) for t in (0.5, 1.5, 2.5, 3.5)] + [Phone("AA", t, t + 0.1) for t in (0.9, 1.9, 2.9)]
    truth = spoken_curve([0.5, 1.5, 2.5])  # it leaves the last one open
    every = closures_matched(truth, truth, phones, FPS)
    assert (every.matched, every.count, every.share, every.at_vowels) == (3, 3, 1.0, 0.0)
    some = closures_matched(spoken_curve([0.5, 2.5, 3.5]), truth, phones, FPS)
    assert (some.matched, some.count) == (2, 3) and some.share == pytest.approx(2 / 3)


def test_closures_that_come_late_do_not_match() -> None:
    phones = [Phone("M", t - 0.04, t + 0.04) for t in (0.5, 1.5, 2.5)]
    late = closures_matched(spoken_curve([0.75, 1.75, 2.75]), spoken_curve([0.5, 1.5, 2.5]), phones, FPS)
    assert (late.matched, late.count) == (0, 3)


def test_no_closure_in_the_truth_is_no_figure() -> None:
    match = closures_matched(spoken_curve([1.0]), spoken_curve([3.0]), [Phone("AA", 0.5, 1.0)], FPS)
    assert match.count == 0 and np.isnan(match.share)
