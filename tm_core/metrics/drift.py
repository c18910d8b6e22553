"""Drift of a long video: sharpness, colour, shape and likeness of the face, and the background, over time.

A meter takes a few frames a second as they pass and keeps a handful of numbers for each, so an hour costs
no more memory than a minute. Reported: the trend per minute and the last minute against the first (a
shorter share for short videos). Likeness ("identity") is the correlation of the upper face, laid onto the
first frame's eyes and nose, with the first frame: what speech does not move. Non-goals: recognising people;
a contact sheet shows that better. The paper has no such measure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, laplace, map_coordinates

from ..face.mask import face_mask
from ..face.topology import BROWS_AND_ABOVE, CHIN, FOREHEAD, LEFT_EYE, RIGHT_EYE
from ..streaming.colour_correction import to_lab
from .quality import luma, psnr

SAMPLES_PER_S = 5
WINDOW_S = 60.0
BACKGROUND = 1.45  # of the face's oval: hair and ears move with the head
STILL = (RIGHT_EYE[0], RIGHT_EYE[1], LEFT_EYE[0], LEFT_EYE[1], 168, 6, 197, 195, 5, 4, 1, 234, 454, 127, 356, FOREHEAD)
RIGID = (*RIGHT_EYE, *LEFT_EYE, 168, 6, 197, 195, 5, 4, 1)  # eyes' corners and the nose: what lays a face onto another
UPPER_SIDE, UPPER_BLUR = 32, 1.0  # of the likeness's crop, pixels; the blur is a pixel of it
COLUMNS = ("sharpness", "red", "green", "blue", "contrast", "lightness", "a", "b", "shape", "identity", "background")


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One measure: mean of the first and the last window, last over first, and change per minute."""

    first: float
    last: float
    ratio: float
    per_minute: float


@dataclass(frozen=True, kw_only=True)
class DriftScore:
    """Face sharpness, mean red, green, blue, contrast, likeness (-1..1) and background PSNR (dB) to the first
    frame as trends; colour shift in Lab units (delta E), change of the face's shape (share of its height), worst
    background PSNR."""

    window_s: float
    sharpness: Trend
    red: Trend
    green: Trend
    blue: Trend
    contrast: Trend
    identity: Trend
    background: Trend
    colour_shift: float
    shape_shift: float
    background_db: float
    worst_change: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)


@dataclass
class DriftMeter:
    """Feed it frames as they come; `score` at the end."""

    fps: float
    _seen: int = 0
    _times: list[float] = field(default_factory=list)
    _rows: list[np.ndarray] = field(default_factory=list)
    _first: np.ndarray | None = None
    _background: np.ndarray | None = None
    _shape: np.ndarray | None = None
    _upper: UpperFace | None = None

    def push(self, frames: np.ndarray, landmarks: np.ndarray) -> None:
        """Frames (T, H, W, 3) uint8 and their landmarks (T, 468, 3), NaN where there is no face."""
        every = max(1, round(self.fps / SAMPLES_PER_S))
        for i in range(len(frames)):
            if (self._seen + i) % every == 0 and not np.isnan(landmarks[i]).any():
                self._times.append((self._seen + i) / self.fps)
                self._rows.append(self._measure(frames[i], landmarks[i]))
        self._seen += len(frames)

    def skip(self, frames: int) -> None:
        """Frames that pass unmeasured: time goes on."""
        self._seen += frames

    def score(self) -> DriftScore | None:
        """The figures; None with fewer than two frames that show a face."""
        if len(self._rows) < 2:
            return None
        times, rows = np.array(self._times), np.stack(self._rows)
        window = min(WINDOW_S, max((times[-1] - times[0]) / 3, 1 / self.fps))
        head, tail = times <= times[0] + window, times >= times[-1] - window
        trends = {name: _trend(times, rows[:, i], head, tail) for i, name in enumerate(COLUMNS)}
        shift = [trends[c].last - trends[c].first for c in ("lightness", "a", "b")]
        shown = {c: trends[c] for c in ("sharpness", "red", "green", "blue", "contrast", "identity", "background")}
        return DriftScore(
            window_s=float(window), **shown, colour_shift=float(np.linalg.norm(shift)),
            shape_shift=trends["shape"].last - trends["shape"].first, background_db=float(rows[:, -1].min()),
            worst_change=max(abs(trends[c].ratio - 1) for c in ("sharpness", "red", "green", "blue", "contrast")))

    def _measure(self, rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
        low = np.maximum(np.floor(points[:, :2].min(0)).astype(int), 0)
        high = np.ceil(points[:, :2].max(0)).astype(int) + 1
        part = rgb[low[1] : high[1], low[0] : high[0]]
        mask = region(points - [low[0], low[1], 0], part.shape[:2])
        grey = luma(part)
        mean = weighted(part.astype(np.float64), mask)
        spread = float(np.sqrt(weighted((grey - weighted(grey, mask)) ** 2, mask)))
        edges = laplace(grey)
        sharp = float(np.sqrt(weighted((edges - weighted(edges, mask)) ** 2, mask)))
        lab = to_lab(torch.from_numpy(mean / 255)).tolist()
        values = [sharp, *mean, spread, *lab, self._shape_change(points), self._likeness(rgb, points), self._background_psnr(rgb, points)]
        return np.array(values, np.float64)

    def _shape_change(self, points: np.ndarray) -> float:
        """Mean distance of points that speech does not move to the first frame's, laid onto each other."""
        shape = np.array([points[i, :2] for i in STILL], np.float64)
        height = np.linalg.norm(points[CHIN, :2] - points[FOREHEAD, :2])
        z = (shape[:, 0] + 1j * shape[:, 1]) / max(float(height), 1e-6)
        z = z - z.mean()
        if self._shape is None:
            self._shape = z
        turn = np.vdot(z, self._shape) / max(float(np.vdot(z, z).real), 1e-12)
        return float(np.abs(z * turn - self._shape).mean())

    def _likeness(self, rgb: np.ndarray, points: np.ndarray) -> float:
        if self._upper is None:
            self._upper = UpperFace(rgb, points)
        return self._upper.likeness(rgb, points)

    def _background_psnr(self, rgb: np.ndarray, points: np.ndarray) -> float:
        if self._first is None or self._background is None:
            centre = points.mean(0)
            self._first = rgb.copy()
            self._background = 1 - region(centre + (points - centre) * BACKGROUND, rgb.shape[:2])
        return psnr(rgb, self._first, self._background)


class UpperFace:
    """Brows, eyes and nose of one picture (H, W, 3) uint8 with its landmarks, to compare others with."""

    def __init__(self, rgb: np.ndarray, points: np.ndarray) -> None:
        flat = points[:, :2].astype(np.float64)
        self._rigid = _complex(flat[list(RIGID)])
        across = [*RIGHT_EYE, *LEFT_EYE, *BROWS_AND_ABOVE, 234, 454, 1]
        low, high = flat[across].min(0), flat[across].max(0)
        x, y = np.meshgrid(np.linspace(low[0], high[0], UPPER_SIDE), np.linspace(low[1], high[1], UPPER_SIDE))
        self._grid = x + 1j * y
        self._values = self._sample(rgb, points)

    def likeness(self, rgb: np.ndarray, points: np.ndarray) -> float:
        """Correlation -1..1 of the brightness of this picture's upper face with the first one's."""
        return float((self._values * self._sample(rgb, points)).sum())

    def _sample(self, rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
        here = _complex(points[list(RIGID), :2].astype(np.float64))
        centre, there = self._rigid.mean(), here.mean()
        turn = np.vdot(self._rigid - centre, here - there) / max(float(np.vdot(self._rigid - centre, self._rigid - centre).real), 1e-12)
        at = (self._grid - centre) * turn + there
        step = abs(self._grid[0, 1] - self._grid[0, 0]) * abs(turn)
        grey = gaussian_filter(luma(rgb), UPPER_BLUR * step / 2)
        values = map_coordinates(grey, [at.imag, at.real], order=1, mode="nearest")
        values = values - values.mean()
        return np.asarray(values / max(float(np.linalg.norm(values)), 1e-9))


def _complex(points: np.ndarray) -> np.ndarray:
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def region(points: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W) 0..1 of the face's oval, hard edge."""
    return face_mask(points, max(hw), feather=0.0)[: hw[0], : hw[1]]


def weighted(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of values (H, W, ...) under a mask (H, W)."""
    return np.asarray(np.tensordot(mask, values, ([0, 1], [0, 1])) / max(float(mask.sum()), 1e-9))


def _trend(times: np.ndarray, values: np.ndarray, head: np.ndarray, tail: np.ndarray) -> Trend:
    first, last = float(values[head].mean()), float(values[tail].mean())
    centred = times - times.mean()
    slope = float((centred * values).sum() / max(float((centred**2).sum()), 1e-9)) * 60
    return Trend(first=first, last=last, ratio=last / first if abs(first) > 1e-9 else 1.0, per_minute=slope)
