"""Enough motion, and not too much: landmarks stand in for the paper's RAFT motion score (section 4).

A talking head's motion is its landmarks'; optical flow would also count a waving curtain, and RAFT's weights are in no
package. All in face extents, so that size does not matter.
"""

from __future__ import annotations

import numpy as np

from ...metrics.lip_sync import lip_gap
from .thresholds import FootageConfig

RIGID = (33, 263, 133, 362, 168, 6, 197, 195)  # corners of the eyes and the nose's bridge: speech does not move them


def check_motion(points: np.ndarray, fps: float, cfg: FootageConfig) -> tuple[str | None, dict[str, float]]:
    """Reason to drop, or None, and the measures, of landmarks (T, 468, 3) without gaps."""
    flat = points[..., :2].astype(np.float64)
    extent = float(np.median((flat.max(1) - flat.min(1)).max(1)))
    gap = lip_gap(points)
    speed = np.linalg.norm(np.diff(flat[:, RIGID].mean(1), axis=0), axis=1) * fps / extent
    measures = {
        "motion": _changes(flat) / extent, "head_speed": float(np.percentile(speed, 90)),
        "lip_spread": float(gap.std()), "lip_range": float(np.percentile(gap, 95) - np.percentile(gap, 5)),
    }
    if measures["motion"] < cfg.least_motion:
        return "still", measures
    if measures["head_speed"] > cfg.most_head_speed or measures["lip_spread"] > cfg.most_lip_spread:
        return "shaky", measures
    return None, measures


def _changes(flat: np.ndarray) -> float:
    """Mean spread in pixels of landmarks (T, N, 2) once each frame is moved, turned and scaled onto the mean face.

    So a photograph over which a camera pans or zooms is as still as one that is only shown.
    """
    z = flat[..., 0] + 1j * flat[..., 1]
    z = z - z.mean(1, keepdims=True)
    mean = z.mean(0)
    onto = z * ((z.conj() @ mean) / (np.abs(z) ** 2).sum(1))[:, None]
    return float(np.sqrt((np.abs(onto - onto.mean(0)) ** 2).mean(0)).mean())


def lips_rest(measures: dict[str, float], cfg: FootageConfig) -> bool:
    """Whether the lips rest for the whole clip."""
    return measures["lip_range"] < cfg.resting_lips
