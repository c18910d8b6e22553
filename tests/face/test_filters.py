"""Filters of our own: scipy's numbers, and its first frame's worth of import time saved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates, uniform_filter

from tm_core.face.filters import box_blur, sample_bilinear


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [3, 9, 41])
def test_a_blur_is_scipys_bit_for_bit(kind: type, size: int) -> None:
    picture = np.random.default_rng(size).random((65, 30)).astype(kind)
    ours = box_blur(picture, size)
    assert ours.dtype == kind
    assert np.array_equal(ours, uniform_filter(picture, size, mode="nearest"))


def test_samples_are_scipys() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((20, 31, 3)) * 255
    x, y = rng.uniform(-4, 36, (2, 50, 40))
    x[0, :4], y[0, :4] = (0, 30, -1, 31), (0, 19, 19, 20)  # corners, and what lies beyond them
    theirs = np.stack([map_coordinates(picture[..., c], [y, x], order=1, mode="nearest") for c in range(3)], -1)
    assert np.abs(sample_bilinear(picture, x, y) - theirs).max() <= 1e-12
