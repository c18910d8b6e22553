"""PSNR and SSIM against their definitions and limits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tm_core.metrics.quality import MAX_DB, psnr, ssim

from .conftest import Clip


def test_equal_pictures_are_perfect(clip: Clip) -> None:
    assert psnr(clip.frames[0], clip.frames[0]) == MAX_DB
    assert ssim(clip.frames[0], clip.frames[0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("offset", "expected"), [(1, 48.13), (10, 28.13), (255, 0.0)])
def test_psnr_of_a_constant_error(offset: int, expected: float) -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    assert psnr(a, a + np.uint8(offset)) == pytest.approx(expected, abs=0.01)


def test_psnr_counts_only_what_the_mask_shows() -> None:
    a, b = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    b[:4] = 10
    mask = np.zeros((8, 8))
    mask[:4] = 1
    assert psnr(a, b, mask) == pytest.approx(28.13, abs=0.01)
    assert psnr(a, b, 1 - mask) == MAX_DB


def test_ssim_falls_with_blur_and_noise(clip: Clip) -> None:
    frame = clip.frames[0]
    values = [ssim(frame, np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(r)))) for r in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 0.9 > values[-1]
    noisy = np.clip(frame + np.random.default_rng(0).normal(0, 25, frame.shape), 0, 255).astype(np.uint8)
    assert 0.1 < ssim(frame, noisy) < 0.9


def test_ssim_forgives_brightness_more_than_structure(clip: Clip) -> None:
    frame = np.clip(clip.frames[0], 0, 225)
    shuffled = np.random.default_rng(0).permutation(frame.reshape(-1, 3)).reshape(frame.shape)
    assert ssim(frame, frame + np.uint8(10)) > 0.85 > 0.3 > ssim(frame, shuffled)
