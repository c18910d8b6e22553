"""When a face speaks: loudness with hysteresis, one flag per latent (paper section 3, speaking/silence).

A pure reducer over 10 ms steps: speech begins above one level, ends below a lower one, and a gap shorter
than `hold_s` does not end it. Levels are relative to the loud part of the sound, above an absolute floor, so
quiet recordings speak and digital silence never does. Non-goals: telling speech from other sounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..timeline import Timeline

STEP_S = 0.01
FLOOR_DB = -60.0  # below it nothing speaks, however quiet the rest is
EMPTY_DB = -120.0


@dataclass(frozen=True, kw_only=True)
class Activity:
    """State of the reducer: speaking, and for how long it has been quiet."""

    speaking: bool = False
    quiet_s: float = 0.0


def react(state: Activity, level_db: float, dt: float, *, on_db: float, off_db: float, hold_s: float) -> Activity:
    """The state after a step of `dt` seconds at `level_db`."""
    if level_db >= (off_db if state.speaking else on_db):
        return Activity(speaking=True)
    quiet = state.quiet_s + dt
    return Activity(speaking=state.speaking and quiet < hold_s, quiet_s=quiet)


def loudness_db(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Level of every 10 ms in dB of full scale, over a 30 ms window."""
    step = round(sample_rate * STEP_S)
    count = -(-len(waveform) // step)
    power = np.pad(waveform.astype(np.float32), (0, count * step - len(waveform))).reshape(count, step)
    mean = np.pad((power**2).mean(1), 1, mode="edge")
    smooth = (mean[:-2] + mean[1:-1] + mean[2:]) / 3
    return np.asarray(10 * np.log10(np.maximum(smooth, 10 ** (EMPTY_DB / 10))), np.float32)


def activity(levels_db: NDArray[np.float32], *, on_db: float, off_db: float, hold_s: float) -> NDArray[np.bool_]:
    """Speaking or not at every step; a hold that ends in silence is taken back."""
    state, flags = Activity(), np.zeros(len(levels_db), bool)
    for i, level in enumerate(levels_db):
        before, state = state, react(state, float(level), STEP_S, on_db=on_db, off_db=off_db, hold_s=hold_s)
        flags[i] = state.speaking
        if before.speaking and not state.speaking:
            flags[i - round(before.quiet_s / STEP_S) : i] = False
    if state.speaking and state.quiet_s:
        flags[len(flags) - round(state.quiet_s / STEP_S) :] = False
    return flags


def speaking_latents(
    waveform: NDArray[np.float32], num_latents: int, timeline: Timeline, *, sample_rate: int = 16000, on_db: float = -28.0,
    off_db: float = -34.0, hold_s: float = 0.3, margin_s: float = 0.08,
) -> NDArray[np.bool_]:
    """Flags (num_latents,), True where any of a latent's frames is within `margin_s` of speech.

    on_db and off_db are relative to the loud part (95th percentile) of the sound.
    """
    flags = np.zeros(num_latents, bool)
    if not len(waveform):
        return flags
    levels = loudness_db(waveform, sample_rate)
    loud = float(np.percentile(levels, 95))
    on, off = max(loud + on_db, FLOOR_DB), max(loud + off_db, FLOOR_DB)
    active = activity(levels, on_db=on, off_db=off, hold_s=hold_s)
    for i in range(num_latents):
        frames = timeline.frames_of_latent(i)
        start = int((frames.start / timeline.fps - margin_s) / STEP_S)
        stop = int((frames.stop / timeline.fps + margin_s) / STEP_S) + 1
        flags[i] = bool(active[max(0, start) : max(0, stop)].any())
    return flags
