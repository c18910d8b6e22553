"""Picture against picture: PSNR and SSIM. Non-goals: perceptual distances that need a trained network."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

LUMA = np.array([0.299, 0.587, 0.114])
MAX_DB = 99.0  # equal pictures: a number, not infinity, so that JSON and means work
SSIM_SIGMA = 1.5


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """dB between pictures of equal shape (..., H, W, 3) uint8; `mask` (H, W) weights pixels."""
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    mean = float(error.mean()) if mask is None else float((error.mean(-1) * mask).mean() / max(float(mask.mean()), 1e-9))
    return MAX_DB if mean < 1e-9 else min(MAX_DB, float(10 * np.log10(255**2 / mean)))


def luma(rgb: np.ndarray) -> np.ndarray:
    """(..., H, W) float64 0..255 of (..., H, W, 3) uint8."""
    return np.asarray(rgb @ LUMA)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of the brightness of two pictures (H, W, 3) uint8, Gaussian window of sigma 1.5."""
    x, y = luma(a), luma(b)

    def mean(v: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(v, SSIM_SIGMA, truncate=3.5))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
