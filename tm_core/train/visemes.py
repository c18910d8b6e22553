"""PhoneInterval times to mouth-shape weights, and the small random motions of a living head.

The rules of the training data's teacher: coarse coarticulation by smoothing, closures that really close,
lips at rest in silence. A network taught by it learns no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PhoneInterval = tuple[str, float, float]  # ARPAbet without stress, start and end in seconds

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
NOD = 0.04  # radians
POSE_SPREAD = np.array([0.045, 0.03, 0.02, 0.008, 0.006], np.float32)  # yaw, pitch, roll (rad), x, y (of face height)


def gaussian_filter1d(curve: NDArray[Any], sigma: float, axis: int = 0) -> NDArray[Any]:
    """scipy.ndimage's, reflected ends and four sigmas wide; training runs on machines that have no scipy."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    line = np.moveaxis(np.asarray(curve, np.float64), axis, 0)
    padded = np.pad(line, [(reach, reach)] + [(0, 0)] * (line.ndim - 1), mode="symmetric")
    flat = padded.reshape(len(padded), -1)
    out = np.stack([np.convolve(column, kernel, "valid") for column in flat.T], 1).reshape(line.shape)
    return np.moveaxis(out, 0, axis).astype(np.asarray(curve).dtype)


def _loudness(waveform: Floats, sample_rate: int, n: int) -> Floats:
    step = sample_rate // RATE
    padded = np.pad(waveform, (0, max(0, n * step - len(waveform))))[: n * step].reshape(n, step)
    return np.asarray(gaussian_filter1d(np.sqrt((padded**2).mean(1)), RATE * 0.06), np.float32)


def mouth_weights(phones: Sequence[PhoneInterval], waveform: Floats, frames: int, fps: float, sample_rate: int = 16000) -> Floats:
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


def phone_labels(phones: Sequence[PhoneInterval], frames: int, fps: float) -> NDArray[np.int64]:
    """Index into PHONES (frames,) of the phone at the middle of each frame; unknown and none are SIL."""
    labels = np.zeros(frames, np.int64)
    for name, start, end in phones:
        if name in VISEMES:
            first, last = round(start * fps - 0.5), round(end * fps - 0.5)
            labels[max(first, 0) : max(last, first + 1)] = PHONES.index(name)
    return labels


def accents(level: Floats, fps: float) -> Floats:
    """(T,) 0..1 where the sound stands out from its neighbourhood: stressed syllables; level (T,) 0..1 is loudness."""
    near, far = gaussian_filter1d(level, 0.10 * fps), gaussian_filter1d(level, 0.8 * fps)
    return np.asarray(np.clip((near - far) / 0.25, 0, 1), np.float32)


def blinks(frames: int, fps: float, rng: np.random.Generator, level: Floats | None = None) -> Floats:
    """Lid closure (frames,) in 0..1, every two to five seconds; drawn to where the sound stops, if one is near."""
    track, t = np.zeros(frames + 8, np.float32), rng.uniform(0.5, 3.0)
    stops = np.zeros(0) if level is None else np.flatnonzero((level[:-1] > 0.15) & (level[1:] <= 0.15)) / fps
    while (i := int(t * fps)) < frames:
        if len(stops) and abs(nearest := stops[np.abs(stops - t).argmin()] - t) < 0.7 and i > 0:
            i = int(np.clip((t + nearest) * fps, 0, frames - 1))
        track[i : i + 6], t = [0.45, 0.95, 1, 0.75, 0.4, 0.12], t + rng.uniform(2, 5)
    return track[:frames]


def head_pose(frames: int, fps: float, rng: np.random.Generator, motion: float) -> Floats:
    """Slowly wandering pose (frames, 5), zero at the first frame; `motion` 1 is a lively speaker."""
    slow, lead = fps * 0.7, int(3 * fps)
    walk = gaussian_filter1d(rng.standard_normal((frames + 2 * lead, 5)), slow, axis=0)[lead : lead + frames]
    walk = (walk - walk[:1]) * np.sqrt(2 * slow * np.sqrt(np.pi))
    pose: Floats = (walk * POSE_SPREAD * motion).astype(np.float32)
    return pose


def life(level: Floats, fps: float, rng: np.random.Generator, motion: float) -> Floats:
    """What a face does besides speaking (T, 7): blink, yaw, pitch, roll, x, y, brow.

    Stressed syllables lift the brows and nod the head, blinks fall into pauses; level (T,) 0..1 is loudness.
    """
    frames, stress = len(level), accents(level, fps)
    pose = head_pose(frames, fps, rng, motion)
    nod = gaussian_filter1d(stress, 0.08 * fps) * rng.uniform(-0.2, 1.0) * NOD * motion
    pose[:, 1] += nod - nod[:1]
    brow = gaussian_filter1d(stress, 0.10 * fps) * rng.uniform(0.0, 1.0)
    return np.concatenate([blinks(frames, fps, rng, level)[:, None], pose, brow[:, None]], 1).astype(np.float32)
