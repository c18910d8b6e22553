"""Loudness of speech after ITU-R BS.1770-4, and sound brought to a given loudness.

Mono only. The two filters are the recommendation's K weighting for any sample rate, with the rounded
parameters of pyloudnorm, which prepares the sound of MultiTalk and its relatives: they read about a tenth of
a dB away from the exact ones, and the checkpoints know these.

Shapes: n samples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BLOCK_S, STEP_S = 0.4, 0.1
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LUFS = -0.691  # makes a 997 Hz sine at full scale read -3.01
BEYOND_SENSE_LU = 100.0  # a reading further from 0 than this is silence: nothing is scaled to it
SHELF_DB, SHELF_HZ, SHELF_Q = 4.0, 1500.0, math.sqrt(0.5)
HIGH_PASS_HZ, HIGH_PASS_Q = 38.0, 0.5


def _shelf(sample_rate: int) -> tuple[Doubles, Doubles]:
    """Second-order high shelf (b, a), after the cookbook of R. Bristow-Johnson."""
    gain, w = 10 ** (SHELF_DB / 40), 2 * math.pi * SHELF_HZ / sample_rate
    cos, slope = math.cos(w), 2 * math.sqrt(gain) * math.sin(w) / (2 * SHELF_Q)
    up, down = gain + 1, gain - 1
    b = gain * np.array([up + down * cos + slope, -2 * (down + up * cos), up + down * cos - slope])
    a = np.array([up - down * cos + slope, 2 * (down - up * cos), up - down * cos - slope])
    return b / a[0], a / a[0]


def _high_pass(sample_rate: int) -> tuple[Doubles, Doubles]:
    """Second-order high pass (b, a), same source."""
    w = 2 * math.pi * HIGH_PASS_HZ / sample_rate
    cos, alpha = math.cos(w), math.sin(w) / (2 * HIGH_PASS_Q)
    b, a = np.array([1 + cos, -2 * (1 + cos), 1 + cos]) / 2, np.array([1 + alpha, -2 * cos, 1 - alpha])
    return b / a[0], a / a[0]


def _block_powers(weighted: Doubles, sample_rate: int) -> Doubles:
    """Mean square of every 400 ms block, one each 100 ms; a last block that is cut short counts as if silence followed."""
    block, step = round(BLOCK_S * sample_rate), round(STEP_S * sample_rate)
    count = round((len(weighted) / sample_rate - BLOCK_S) / STEP_S) + 1
    power = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(count) * step
    stops = np.minimum(starts + block, len(weighted))
    return np.asarray((power[stops] - power[starts]) / block)


def _lufs(power: Doubles | float) -> Doubles:
    return np.asarray(OFFSET_LUFS + 10 * np.log10(np.maximum(power, 1e-300)))


def integrated_loudness(samples: Floats, sample_rate: int) -> float:
    """Gated loudness in LUFS of a sound (n,); -inf for silence and for a sound shorter than one block (0.4 s)."""
    if len(samples) < BLOCK_S * sample_rate:
        return -math.inf
    from scipy.signal import lfilter  # dear to import, and most commands measure no loudness

    weighted = np.asarray(samples, np.float64)
    for b, a in (_shelf(sample_rate), _high_pass(sample_rate)):
        weighted = lfilter(b, a, weighted)
    powers = _block_powers(weighted, sample_rate)
    loud = powers[_lufs(powers) >= ABSOLUTE_GATE_LUFS]
    if not len(loud):
        return -math.inf
    gate = float(_lufs(loud.mean())) + RELATIVE_GATE_LU
    return float(_lufs(loud[_lufs(loud) > gate].mean()))


def normalise_loudness(samples: Floats, sample_rate: int, target_lufs: float) -> Floats:
    """The sound (n,) scaled to `target_lufs`; silence and sounds shorter than 0.4 s come back as they are. May exceed 1."""
    found = integrated_loudness(samples, sample_rate)
    if abs(found) > BEYOND_SENSE_LU:
        return np.asarray(samples, np.float32)
    return np.asarray(samples * 10 ** ((target_lufs - found) / 20), np.float32)
