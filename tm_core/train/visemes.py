"""Phone times to mouth-shape weights, and the small random motions of a living head.

The rules of the training data's teacher: coarse coarticulation by smoothing, closures that really close,
lips at rest in silence. A network taught by it learns no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Floats = NDArray[np.float32]
Phone = tuple[str, float, float]  # ARPAbet without stress, start and end in seconds

RATE = 200  # weights are built at this rate, then read at the frame rate
SHAPES = ("AA", "EH", "EE", "OO", "FV", "MBP")
CLOSING = 4  # the first of the shapes that close the lips
VISEMES: dict[str, tuple[str, float]] = {
    **{p: ("AA", s) for p, s in {"AA": 1, "AE": 0.95, "AO": 0.8, "AW": 0.9, "AY": 0.95}.items()},
    **{p: ("EH", s) for p, s in {"EH": 1, "AH": 0.9, "AX": 0.8, "L": 0.6, "HH": 0.6, "TH": 0.5, "DH": 0.5, "K": 0.5,
                                 "G": 0.5, "T": 0.45, "D": 0.45, "DX": 0.45, "N": 0.45, "NG": 0.4}.items()},
    **{p: ("EE", s) for p, s in {"IY": 1, "EY": 1, "IH": 0.9, "Y": 0.8, "S": 0.6, "Z": 0.6}.items()},
    **{p: ("OO", s) for p, s in {"OW": 1, "OY": 1, "UW": 1, "UH": 0.9, "W": 0.9, "ER": 0.7, "R": 0.6, "SH": 0.7,
                                 "ZH": 0.7, "CH": 0.7, "JH": 0.7}.items()},
    **dict.fromkeys("FV", ("FV", 1.0)),
    **dict.fromkeys("MBP", ("MBP", 1.0)),
}
PHONES = ("SIL", *sorted(VISEMES))
POSE_SPREAD = np.array([0.045, 0.03, 0.02, 0.008, 0.006], np.float32)  # yaw, pitch, roll (rad), x, y (of face height)


def _loudness(waveform: Floats, sample_rate: int, n: int) -> Floats:
    step = sample_rate // RATE
    padded = np.pad(waveform, (0, max(0, n * step - len(waveform))))[: n * step].reshape(n, step)
    return np.asarray(gaussian_filter1d(np.sqrt((padded**2).mean(1)), RATE * 0.06), np.float32)


def mouth_weights(phones: Sequence[Phone], waveform: Floats, frames: int, fps: float, sample_rate: int = 16000) -> Floats:
    """Weights (frames, 6) of SHAPES in 0..1 at the middle of each frame; silence (by loudness) is rest."""
    n = int(frames / fps * RATE) + RATE
    raw = np.zeros((n, len(SHAPES)), np.float32)
    for name, start, end in phones:
        if name in VISEMES:
            shape, strength = VISEMES[name]
            raw[round(start * RATE) : round(end * RATE), SHAPES.index(shape)] = strength
    loud = _loudness(waveform, sample_rate, n)
    raw *= np.clip(loud / (0.06 * np.percentile(loud, 95) + 1e-9) - 0.3, 0, 1)[:, None]
    closed = np.clip(1.6 * gaussian_filter1d(raw[:, CLOSING:], RATE * 0.022, axis=0), 0, 1)
    opened = gaussian_filter1d(raw, RATE * 0.03, axis=0)[:, :CLOSING] * (1 - closed.max(1, keepdims=True))
    when = (np.arange(frames) + 0.5) / fps * RATE
    both = np.hstack([opened, closed])
    return np.stack([np.interp(when, np.arange(n), column) for column in both.T], 1).astype(np.float32)


def phone_labels(phones: Sequence[Phone], frames: int, fps: float) -> NDArray[np.int64]:
    """Index into PHONES (frames,) of the phone at the middle of each frame; unknown and none are SIL."""
    labels = np.zeros(frames, np.int64)
    for name, start, end in phones:
        if name in VISEMES:
            first, last = round(start * fps - 0.5), round(end * fps - 0.5)
            labels[max(first, 0) : max(last, first + 1)] = PHONES.index(name)
    return labels


def blinks(frames: int, fps: float, rng: np.random.Generator) -> Floats:
    """Lid closure (frames,) in 0..1, every two to five seconds."""
    track, t = np.zeros(frames + 8, np.float32), rng.uniform(0.5, 3.0)
    while (i := int(t * fps)) < frames:
        track[i : i + 6], t = [0.45, 0.95, 1, 0.75, 0.4, 0.12], t + rng.uniform(2, 5)
    return track[:frames]


def head_pose(frames: int, fps: float, rng: np.random.Generator, motion: float) -> Floats:
    """Slowly wandering pose (frames, 5), zero at the first frame; `motion` 1 is a lively speaker."""
    slow, lead = fps * 0.7, int(3 * fps)
    walk = gaussian_filter1d(rng.standard_normal((frames + 2 * lead, 5)), slow, axis=0)[lead : lead + frames]
    walk = (walk - walk[:1]) * np.sqrt(2 * slow * np.sqrt(np.pi))
    pose: Floats = (walk * POSE_SPREAD * motion).astype(np.float32)
    return pose
