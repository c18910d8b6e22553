"""When a face speaks: loudness with hysteresis, one flag per latent (paper section 3, speaking/silence).

A pure reducer over 10 ms steps: speech begins above one level, ends below a lower one, a gap shorter than `hold_s` does
not end it, and what lasts less than `shortest_s` was no speech. Levels are relative to the loud part of the sound, above
a steady noise and an absolute floor, so quiet recordings speak and digital silence never does; or absolute, in dB of full
scale, which needs no look at the whole sound: `SpeakingStream` gives the same flags while the sound is still coming.
Non-goals: telling speech from other sounds, who speaks in one sound (turns.py).

Shapes: n samples, F latents.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..errors import InputError
from ..timeline import Timeline

log = logging.getLogger(__name__)

Levels = Literal["relative", "absolute"]
RULE = {"on_db": -28.0, "off_db": -34.0, "hold_s": 0.3, "shortest_s": 0.0}  # what is taken where nothing is chosen, in dB and seconds
STEP_S = 0.01
FLOOR_DB = -60.0  # below it nothing speaks, however quiet the rest is
EMPTY_DB = -120.0
MARGIN_S = 0.08
NOISE_STEPS, STEADY_DB = 30, 2.0
STRETCH_S = 60.0  # of a long sound that are heard before its levels are known
ABOVE_NOISE_DB, UNDER_SPEECH_DB = 6.0, 15.0  # speech ends that far above noise, which is that far under the loud part


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


class LevelStream:
    """Level of every 10 ms in dB of full scale, over a 30 ms window, as samples arrive: one step behind them."""

    def __init__(self, sample_rate: int) -> None:
        self._step = round(sample_rate * STEP_S)
        self._rest = np.zeros(0, np.float32)
        self._means = np.zeros(0, np.float32)  # of the last two steps; the first one stands before itself as well

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Levels of the steps whose window is complete."""
        held = np.concatenate([self._rest, np.asarray(samples, np.float32)])
        whole = len(held) // self._step * self._step
        self._rest = held[whole:]
        return self._add((held[:whole].reshape(-1, self._step) ** 2).mean(1))

    def finish(self) -> NDArray[np.float32]:
        """Levels of the remaining steps, the last one filled with silence; there are ceil(n / step) in all."""
        made = self.push(np.zeros(-len(self._rest) % self._step, np.float32))
        return np.concatenate([made, self._add(self._means[-1:])])

    def _add(self, means: NDArray[np.float32]) -> NDArray[np.float32]:
        means = np.concatenate([self._means if len(self._means) else means[:1], means])
        self._means = means[-2:]
        smooth = (means[:-2] + means[1:-1] + means[2:]) / 3
        return np.asarray(10 * np.log10(np.maximum(smooth, 10 ** (EMPTY_DB / 10))), np.float32)


def loudness_db(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Level of every 10 ms in dB of full scale, over a 30 ms window."""
    stream = LevelStream(sample_rate)
    return np.concatenate([stream.push(waveform), stream.finish()])


class Gate:
    """Speaking or not at every step of levels that arrive, said once it is final.

    A hold that ends in silence was none, and speech shorter than `shortest_s` was none either; so a step waits until it is
    known, at most the longer of the two. `speaking` does not wait.
    """

    def __init__(self, *, on_db: float, off_db: float, hold_s: float, shortest_s: float = 0.0) -> None:
        self._on_db, self._off_db, self._hold_s = on_db, off_db, hold_s
        self._shortest = round(shortest_s / STEP_S)
        self._state = Activity()
        self._length = self._open = 0  # steps since speech began, and how many of them are not final

    def set_levels(self, on_db: float, off_db: float) -> None:
        """Other levels from the next step on."""
        self._on_db, self._off_db = on_db, off_db

    @property
    def speaking(self) -> bool:
        """What the reducer says now; may be taken back."""
        return self._state.speaking

    def push(self, levels_db: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Flags of the next steps that are final."""
        return np.array([flag for level in levels_db for flag in self._step(float(level))], bool)

    def finish(self) -> NDArray[np.bool_]:
        """The remaining flags: what is not known to be speech by now is none."""
        return np.array(self._close(), bool)

    def _step(self, level_db: float) -> list[bool]:
        self._state = react(self._state, level_db, STEP_S, on_db=self._on_db, off_db=self._off_db, hold_s=self._hold_s)
        if not self._state.speaking:
            return [*self._close(), False]
        self._length, self._open = self._length + 1, self._open + 1
        if self._state.quiet_s or self._length < self._shortest:
            return []
        final, self._open = [True] * self._open, 0
        return final

    def _close(self) -> list[bool]:
        final, self._length, self._open = [False] * self._open, 0, 0
        return final


def activity(
    levels_db: NDArray[np.float32], *, on_db: float, off_db: float, hold_s: float, shortest_s: float = 0.0,
) -> NDArray[np.bool_]:
    """Speaking or not at every step, see Gate."""
    gate = Gate(on_db=on_db, off_db=off_db, hold_s=hold_s, shortest_s=shortest_s)
    return np.concatenate([gate.push(levels_db), gate.finish()])


def _steps(i: int, timeline: Timeline, margin_s: float) -> slice:
    """Steps of the sound that decide on latent i: its frames and `margin_s` on either side."""
    frames = timeline.frames_of_latent(i)
    start = int((frames.start / timeline.fps - margin_s) / STEP_S)
    stop = int((frames.stop / timeline.fps + margin_s) / STEP_S) + 1
    return slice(max(0, start), max(0, stop))


def speaking_latents(
    waveform: NDArray[np.float32], num_latents: int, timeline: Timeline, *, sample_rate: int = 16000, on_db: float = -28.0,
    off_db: float = -34.0, hold_s: float = 0.3, margin_s: float = MARGIN_S, shortest_s: float = 0.0, levels: Levels = "relative",
) -> NDArray[np.bool_]:
    """Flags (num_latents,), True where any of a latent's frames is within `margin_s` of speech.

    on_db and off_db are relative to the loud part (95th percentile) of the sound, and both raised above a steady noise under
    it; or, with absolute levels, dB of full scale.
    """
    check_rule(on_db, off_db, hold_s, shortest_s, levels)
    flags = np.zeros(num_latents, bool)
    if not len(waveform):
        return flags
    heard = loudness_db(waveform, sample_rate)
    if levels == "relative":
        on_db, off_db = above(float(np.percentile(heard, 95)), steady_means(heard), on_db, off_db)
    active = activity(heard, on_db=on_db, off_db=off_db, hold_s=hold_s, shortest_s=shortest_s)
    for i in range(num_latents):
        flags[i] = bool(active[_steps(i, timeline, margin_s)].any())
    return flags


def above(loud_db: float, steady: NDArray[np.float32], on_db: float, off_db: float) -> tuple[float, float]:
    """Levels relative to the loud part of a sound in dB of full scale, both raised above the steady noise under it."""
    loud_db += max(0.0, _quietest(steady, loud_db - UNDER_SPEECH_DB) + ABOVE_NOISE_DB - loud_db - off_db)
    return max(loud_db + on_db, FLOOR_DB), max(loud_db + off_db, FLOOR_DB)


def noise_db(levels_db: NDArray[np.float32], most_db: float) -> float:
    """Level of the steady noise in a sound: that of its quietest stretch of 0.3 s in which the level hardly changes.

    EMPTY_DB where there is none that quiet (`most_db`): a vowel may be as steady, but it is loud.
    """
    return _quietest(steady_means(levels_db), most_db)


def _quietest(steady: NDArray[np.float32], most_db: float) -> float:
    return float(steady.min()) if len(steady) and steady.min() <= most_db else EMPTY_DB


def steady_means(levels_db: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean levels of all stretches of 0.3 s in which the level hardly changes."""
    if len(levels_db) < NOISE_STEPS:
        return np.zeros(0, np.float32)
    stretches = sliding_window_view(levels_db, NOISE_STEPS)
    return np.asarray(stretches.mean(1)[stretches.std(1) <= STEADY_DB], np.float32)


def warn_if_silent(speaks: bool, loudest_db: float) -> None:
    """Say what was heard where no speech was found in it."""
    if not speaks:
        log.warning(
            "no speech was found: the loudest moment of the sound is at %.0f dB of full scale, speech begins at %.0f dB or above; the "
            "face listens throughout (choose `speaking` to move the lips all the same)", loudest_db, FLOOR_DB)


def check_rule(on_db: float, off_db: float, hold_s: float, shortest_s: float, levels: str = "relative") -> None:
    """InputError for a rule that cannot be."""
    if off_db > on_db:
        raise InputError("silence_db", off_db, f"is above speech_db ({on_db})", "set it some dB below")
    if min(hold_s, shortest_s) < 0:
        raise InputError("shortest_pause_s, shortest_speech_s", (hold_s, shortest_s), "no time is below 0", "use 0.3 and 0")
    if levels not in get_args(Levels):
        raise InputError("levels", levels, "unknown kind of levels", f"choose one of {', '.join(get_args(Levels))}")


class SpeakingStream:
    """Flags of latents while their sound is still coming, by absolute levels: those of `speaking_latents`, bit for bit.

    A latent's flag comes when it is final: `delay_s` after its last frame at the latest. `speaking` says what is known now.
    """

    def __init__(
        self, timeline: Timeline, *, sample_rate: int = 16000, on_db: float, off_db: float, hold_s: float = 0.3,
        margin_s: float = MARGIN_S, shortest_s: float = 0.0,
    ) -> None:
        check_rule(on_db, off_db, hold_s, shortest_s)
        self._timeline, self._margin_s = timeline, margin_s
        self._levels = LevelStream(sample_rate)
        self._gate = Gate(on_db=on_db, off_db=off_db, hold_s=hold_s, shortest_s=shortest_s)
        self._active, self._first = np.zeros(0, bool), 0  # final steps that are still needed, the first of them absolute
        self._latent, self.loudest_db = 0, EMPTY_DB
        self.delay_s = margin_s + max(hold_s, shortest_s) + 3 * STEP_S

    @property
    def speaking(self) -> bool:
        """Whether the sound speaks now; may be taken back."""
        return self._gate.speaking

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Flags of the next latents that are final."""
        self._active = np.concatenate([self._active, self._judged(self._levels.push(samples))])
        flags = []
        while (steps := _steps(self._latent, self._timeline, self._margin_s)).stop <= self._first + len(self._active):
            flags.append(self._flag(steps))
        return np.array(flags, bool)

    def finish(self, num_latents: int) -> NDArray[np.bool_]:
        """The remaining flags of `num_latents` in all, silence after the end."""
        rest = self._judged(self._levels.finish()), self._judged_last(), self._gate.finish()
        self._active = np.concatenate([self._active, *rest])
        return np.array([self._flag(_steps(i, self._timeline, self._margin_s)) for i in range(self._latent, num_latents)], bool)

    def _judged(self, levels_db: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Final flags of steps of these levels."""
        self.loudest_db = max(self.loudest_db, float(levels_db.max(initial=EMPTY_DB)))
        return self._gate.push(levels_db)

    def _judged_last(self) -> NDArray[np.bool_]:
        """Those of levels that were still waiting."""
        return np.zeros(0, bool)

    def _flag(self, steps: slice) -> bool:
        self._active = self._active[max(0, steps.start - self._first) :]  # later latents begin later
        self._first = max(self._first, steps.start)
        self._latent += 1
        return bool(self._active[: steps.stop - self._first].any())


class StretchedSpeaking(SpeakingStream):
    """Flags of a sound too long to wait for, by levels relative to its loud part so far: a minute is judged when it was heard.

    Of a sound of at most a minute the flags are those of `speaking_latents`.
    """

    def __init__(self, timeline: Timeline, *, on_db: float = -28.0, off_db: float = -34.0, **rule: Any) -> None:
        """As `speaking_latents`."""
        super().__init__(timeline, on_db=on_db, off_db=off_db, **rule)
        self._relative, self._stretch = (on_db, off_db), round(STRETCH_S / STEP_S)
        self._heard = np.zeros(0, np.float32)  # all levels so far: 1.4 MB an hour
        self._steady = np.zeros(0, np.float32)
        self._judged_steps = 0

    def _judged(self, levels_db: NDArray[np.float32]) -> NDArray[np.bool_]:
        self._heard = np.concatenate([self._heard, levels_db])
        flags = [np.zeros(0, bool)]
        while len(self._heard) - self._judged_steps >= self._stretch:
            flags.append(self._judge(self._judged_steps + self._stretch))
        return np.concatenate(flags)

    def _judged_last(self) -> NDArray[np.bool_]:
        return self._judge(len(self._heard)) if len(self._heard) > self._judged_steps else np.zeros(0, bool)

    def _judge(self, end: int) -> NDArray[np.bool_]:
        heard, start = self._heard[:end], self._judged_steps
        quietest = np.concatenate([self._steady, steady_means(heard[max(0, start - NOISE_STEPS + 1) :])])
        self._steady = quietest[quietest == quietest.min(initial=np.inf)][:1]
        self._gate.set_levels(*above(float(np.percentile(heard, 95)), self._steady, *self._relative))
        self._judged_steps = end
        return super()._judged(heard[start:])
