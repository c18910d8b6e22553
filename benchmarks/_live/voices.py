"""What is said in the live benchmarks: recorded speech without pauses, so that no turn ends before its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks._common import demo_speech
from tm_core.media.audio_io import read_audio

RATE = 16000
STEP_S, QUIET, LONGEST_PAUSE_S = 0.01, 0.02, 0.1  # of the loudest step; pauses longer than this are shortened to it


def loud_steps(samples: np.ndarray, rate: int, share: float = QUIET) -> np.ndarray:
    """(N,) whether each STEP_S of a sound (n,) has this share of the loudest one's amplitude."""
    size = round(STEP_S * rate)
    levels = np.sqrt((samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64) ** 2).mean(1))
    return np.asarray(levels > share * max(levels.max(initial=0.0), 1e-9))


def phrase(seconds: float, skip_s: float = 0.0, path: Path | None = None) -> np.ndarray:
    """(n,) of recorded speech at RATE from `skip_s` on, loud from its first step, its pauses cut short."""
    samples = read_audio(path or demo_speech()).samples[round(skip_s * RATE) :]
    size, longest = round(STEP_S * RATE), round(LONGEST_PAUSE_S / STEP_S)
    kept, quiet = [], longest
    for i, loud in enumerate(loud_steps(samples, RATE, 0.05)):
        quiet = 0 if loud else quiet + 1
        if quiet <= longest and (loud or kept):
            kept.append(samples[i * size : (i + 1) * size])
    return np.concatenate(kept)[: round(seconds * RATE)].astype(np.float32)


def other_voice(samples: np.ndarray) -> np.ndarray:
    """Another person's speech (n,), made of this one's: backwards and higher by a third."""
    at = np.arange(0, len(samples) - 1, 4 / 3)
    return np.interp(at, np.arange(len(samples)), samples[::-1]).astype(np.float32)
