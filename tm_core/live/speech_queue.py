"""Speech that waits to be spoken: pieces of any size and rate in, whole video frames of sound out.

The same samples leave twice: at the rate they are heard at, and at the model's. Not part of the paper. Non-goals: when they are taken.
Shapes: n samples, T frames.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Floats = NDArray[np.float32]
LONGEST_S = 600.0  # of speech that may wait
LOWEST_RATE, HIGHEST_RATE = 8000, 192_000


@dataclass(frozen=True, kw_only=True)
class SpokenSound:
    """The sound of T frames, and where in its answer it begins."""

    heard: Floats  # (T * samples of a frame,) at the queue's rate
    model: Floats  # the same at the model's
    position_s: float
    length: int  # samples of `heard` that were pushed; silence after them


class SpeechQueue:
    """One answer after the other; not for several threads at once."""

    def __init__(self, *, rate: int, model_rate: int, fps: Fraction) -> None:
        self.rate, self.model_rate, self.fps = rate, model_rate, fps
        self._frame, self._model_frame = _whole(rate / fps, "rate"), _whole(model_rate / fps, "model_rate")
        self.clear()

    def clear(self) -> None:
        """Forget everything; the next samples begin a new answer."""
        self._heard, self._model = _Pieces(), _Pieces()
        self._resamplers: tuple[Any, Any] | None = None
        self._source_rate = 0
        self._taken = 0
        self.ended = False

    @property
    def begun(self) -> bool:
        """Whether an answer is under way, arriving or waiting."""
        return self._source_rate > 0

    @property
    def frames(self) -> int:
        """Frames of sound that are there; after the end the last one counts, however little it holds."""
        whole = min(len(self._heard) // self._frame, len(self._model) // self._model_frame)
        return max(whole, -(-len(self._heard) // self._frame)) if self.ended else whole

    def push(self, samples: Floats, rate: int) -> None:
        """The next samples (n,) in -1..1; InputError for a rate nobody speaks at, too much at once, or another rate within an answer."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError("rate", rate, f"speech has {LOWEST_RATE} to {HIGHEST_RATE} samples a second", "resample it")
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise InputError("samples", f"shape {samples.shape}", "speech is one channel of finite numbers", "mix it down")
        if (len(self._heard) + len(samples) * self.rate / rate) / self.rate > LONGEST_S:
            raise InputError("samples", f"{len(samples) / rate:.0f} s", f"at most {LONGEST_S:.0f} s may wait", "push them later")
        if not self._source_rate or self.ended:  # what comes after an end that still waits to be spoken goes on with it
            import soxr  # type: ignore[import-untyped]

            self._source_rate, self.ended = rate, False
            self._resamplers = soxr.ResampleStream(rate, self.rate, 1), soxr.ResampleStream(rate, self.model_rate, 1)
        if rate != self._source_rate:
            raise InputError("rate", rate, f"this answer began at {self._source_rate}", "end it first")
        self._resample(samples.astype(np.float32), last=False)

    def end(self) -> None:
        """The answer is complete."""
        if self.begun and not self.ended:
            self._resample(np.zeros(0, np.float32), last=True)
            self.ended = True

    def _resample(self, samples: Floats, *, last: bool) -> None:
        assert self._resamplers is not None
        for pieces, resampler in zip((self._heard, self._model), self._resamplers, strict=True):
            pieces.append(resampler.resample_chunk(samples, last=last))

    def take(self, frames: int) -> SpokenSound:
        """The sound of the next frames, silence after its end; with its last sample an ended answer is over."""
        heard = self._heard.take(frames * self._frame)
        sound = SpokenSound(
            heard=_padded(heard, frames * self._frame), length=len(heard), position_s=self._taken / self.rate,
            model=_padded(self._model.take(frames * self._model_frame), frames * self._model_frame))
        self._taken += frames * self._frame
        if self.ended and not len(self._heard):
            self.clear()
        return sound

    def ahead(self, frames: int) -> Floats:
        """What follows, at the model's rate: as much of these frames as is there."""
        return self._model.peek(frames * self._model_frame)


class _Pieces:
    """Samples one after the other; an hour of them is not copied whenever some are added or taken."""

    def __init__(self) -> None:
        self._pieces: deque[Floats] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, samples: Floats) -> None:
        if len(samples):
            self._pieces.append(samples)
            self._count += len(samples)

    def peek(self, count: int) -> Floats:
        """The first samples, at most `count`."""
        found, missing = [np.zeros(0, np.float32)], count
        for piece in self._pieces:
            if missing <= 0:
                break
            found.append(piece[:missing])
            missing -= len(found[-1])
        return np.concatenate(found)

    def take(self, count: int) -> Floats:
        """The first samples, at most `count`, which then are gone."""
        taken = self.peek(count)
        gone = len(taken)
        self._count -= gone
        while gone:
            piece = self._pieces.popleft()
            if len(piece) > gone:
                self._pieces.appendleft(piece[gone:])
                break
            gone -= len(piece)
        return taken


def _padded(samples: Floats, count: int) -> Floats:
    return np.pad(samples, (0, count - len(samples)))


def _whole(value: Fraction, name: str) -> int:
    if value.denominator != 1:
        raise InputError(name, float(value), "a frame of video is a whole number of samples", "use 16000, 24000 or 48000 at 25 fps")
    return int(value)
