"""A box blur and bilinear sampling with numpy alone: scipy.ndimage takes a quarter of a second to load, and the first frame waits for it.

Edges continue as they are (scipy's mode "nearest"). Non-goals: other edges, other orders. No section of the paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_blur(picture: np.ndarray, size: int) -> np.ndarray:
    """Mean over `size` x `size` pixels, an odd number, of a picture (H, W) of floats; scipy's uniform_filter bit for bit."""
    down = _running_mean(picture.T, size).T
    return _running_mean(down, size)


def _running_mean(lines: np.ndarray, size: int) -> np.ndarray:
    """Mean over `size` neighbours along the last axis, added up from left to right."""
    count = lines.shape[-1]
    padded = np.pad(lines.astype(np.float64), [(0, 0), (size // 2, size // 2)], mode="edge")
    first = np.cumsum(padded[:, :size], -1)[:, -1:]
    sums = np.cumsum(np.concatenate([first, padded[:, size:] - padded[:, : count - 1]], -1), -1)
    return np.asarray(sums / size, lines.dtype)


def sample_bilinear(picture: np.ndarray, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (..., C) of a picture (H, W, C) at places (...) between its pixels' centres."""
    height, width = picture.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    to_right, to_bottom = (x - left)[..., None], (y - top)[..., None]
    upper = picture[top, left] * (1 - to_right) + picture[top, right] * to_right
    lower = picture[bottom, left] * (1 - to_right) + picture[bottom, right] * to_right
    return np.asarray(upper * (1 - to_bottom) + lower * to_bottom, np.float64)
