"""Drift figures against videos that drift by a known amount."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tm_core.face.mesh import FaceMesh
from tm_core.metrics.drift import DriftMeter, DriftScore, UpperFace

from .conftest import Clip

FRAMES = 120


def run(clip: Clip, mesh: FaceMesh, change: Callable[[np.ndarray, float], np.ndarray]) -> DriftScore:
    """Score of the clip after `change(frame, 0..1 through the video)`; landmarks of the unchanged one."""
    frames = clip.frames[:FRAMES]
    landmarks = mesh.landmarks_batch(frames)
    changed = np.stack([change(f, i / (FRAMES - 1)) for i, f in enumerate(frames)])
    meter = DriftMeter(fps=25.0)
    for start in range(0, FRAMES, 50):
        meter.push(changed[start : start + 50], landmarks[start : start + 50])
    score = meter.score()
    assert score is not None
    return score


def test_a_steady_video_does_not_drift(clip: Clip, mesh: FaceMesh) -> None:
    score = run(clip, mesh, lambda f, t: f)
    assert score.worst_change < 0.1
    assert score.colour_shift < 2 and abs(score.shape_shift) < 0.02
    assert score.window_s == pytest.approx(1.53, abs=0.1)  # a third of a short video


def test_blur_is_a_loss_of_sharpness(clip: Clip, mesh: FaceMesh) -> None:
    def blur(frame: np.ndarray, t: float) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1.5 * t)))

    score = run(clip, mesh, blur)
    assert score.sharpness.ratio < 0.5 and score.sharpness.per_minute < 0
    assert score.red.ratio == pytest.approx(1, abs=0.1)
    assert score.worst_change > 0.5


def test_a_colour_cast_is_named(clip: Clip, mesh: FaceMesh) -> None:
    score = run(clip, mesh, lambda f, t: np.clip(f * np.array([1.0, 1 - 0.4 * t, 1.0]), 0, 255).astype(np.uint8))
    assert score.green.ratio == pytest.approx(0.71, abs=0.06)  # 0.6 + 0.067 against 1 - 0.067
    assert score.red.ratio == pytest.approx(1, abs=0.05)
    assert score.colour_shift > 8


def test_background_noise_is_seen(clip: Clip, mesh: FaceMesh) -> None:
    rng = np.random.default_rng(0)

    def noise(frame: np.ndarray, t: float) -> np.ndarray:
        return np.clip(frame + rng.normal(0, 40, frame.shape) * (t > 0.5), 0, 255).astype(np.uint8)

    assert run(clip, mesh, noise).background_db < min(18.0, run(clip, mesh, lambda f, t: f).background_db - 3)


def test_a_face_that_changes_shape_is_seen(clip: Clip, mesh: FaceMesh) -> None:
    frames = clip.frames[:FRAMES]
    landmarks = mesh.landmarks_batch(frames)
    wider = landmarks * (1 + np.linspace(0, 0.2, FRAMES)[:, None, None] * np.array([1, 0, 0]))
    meter = DriftMeter(fps=25.0)
    meter.push(frames, wider)
    score = meter.score()
    assert score is not None and score.shape_shift > 0.01


def test_another_upper_face_is_a_loss_of_identity(clip: Clip, mesh: FaceMesh) -> None:
    def other(frame: np.ndarray, t: float) -> np.ndarray:
        """The upper half fades into its mirror image upside down."""
        out, half = frame.astype(float), len(frame) * 6 // 10
        out[:half] = (1 - t) * out[:half] + t * out[:half][::-1]
        return out.astype(np.uint8)

    steady, changed = run(clip, mesh, lambda f, t: f), run(clip, mesh, other)
    assert steady.identity.first > 0.9 and steady.identity.ratio == pytest.approx(1, abs=0.05)
    assert changed.identity.last < 0.8


def test_likeness_does_not_mind_where_and_how_large_the_face_is(clip: Clip, mesh: FaceMesh) -> None:
    frame = clip.frames[0]
    points = mesh(frame)
    moved = np.asarray(Image.fromarray(frame).resize((192, 192), Image.Resampling.BICUBIC).crop((20, 10, 170, 180)))
    there = (points + 0.5) * 1.5 - 0.5 - np.array([20, 10, 0])
    assert UpperFace(frame, points).likeness(frame, points) == pytest.approx(1)
    assert UpperFace(frame, points).likeness(moved, there) > 0.98


def test_skipped_frames_take_time(clip: Clip, mesh: FaceMesh) -> None:
    meter, landmarks = DriftMeter(fps=25.0), np.repeat(mesh(clip.frames[0])[None], 25, 0)
    for i in range(3):
        meter.push(np.clip(clip.frames[:25] * (1 - 0.2 * i), 0, 255).astype(np.uint8), landmarks)
        meter.skip(25 * 59)
    score = meter.score()
    assert score is not None
    assert score.red.first == pytest.approx(score.red.last / 0.6, rel=0.05)
    assert score.red.per_minute == pytest.approx(-0.2 * score.red.first, rel=0.1)


def test_no_face_no_figures(clip: Clip) -> None:
    meter = DriftMeter(fps=25.0)
    meter.push(clip.frames[:10], np.full((10, 468, 3), np.nan))
    assert meter.score() is None


def test_memory_is_a_few_numbers_a_second(clip: Clip, mesh: FaceMesh) -> None:
    meter = DriftMeter(fps=25.0)
    landmarks = np.repeat(mesh(clip.frames[0])[None], 25, 0)
    for _ in range(4):
        meter.push(clip.frames[:25], landmarks)
    assert len(meter._rows) == 20 and meter._rows[0].size <= 16
