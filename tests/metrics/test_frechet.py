"""The Frechet distance: known Gaussians, and clips that look or move otherwise are farther."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.metrics.conftest import Clip
from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.metrics.frechet import DIM, LEAST, PART, VideoFeatures, frechet_distance


def test_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((200_000, 2)), rng.standard_normal((200_000, 2)) * 3 + [1, 0]
    assert frechet_distance(a, b) == pytest.approx(1 + 2 * (3 - 1) ** 2, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_blur_and_stillness_are_farther_than_another_half(clip: Clip, mesh: FaceMesh) -> None:
    features = VideoFeatures()
    landmarks = mesh.landmarks_batch(clip.frames)
    half = len(clip.frames) // 2
    first, second = features(clip.frames[:half], landmarks[:half]), features(clip.frames[half:], landmarks[half:])
    assert first.shape == (len(range(0, half - PART + 1, 8)), DIM)
    blurred = np.stack([gaussian_filter(f, (2, 2, 0)) for f in clip.frames[half:]])
    still = np.repeat(clip.frames[:1], len(clip.frames) - half, 0)
    base = frechet_distance(first, second)
    assert frechet_distance(first, features(blurred, landmarks[half:])) > 1.3 * base
    assert frechet_distance(first, features(still, landmarks[:1].repeat(len(still), 0))) > 1.3 * base


def test_too_little_is_said() -> None:
    with pytest.raises(InputError, match=r"^first set: "):
        frechet_distance(np.zeros((LEAST - 1, 3)), np.zeros((LEAST, 3)))
    with pytest.raises(InputError, match=r"^video: "):
        VideoFeatures()(np.zeros((PART - 1, 64, 64, 3), np.uint8), np.zeros((PART - 1, 468, 3)))
