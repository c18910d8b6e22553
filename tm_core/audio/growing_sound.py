"""A sound that is still arriving: windows and speaking flags up to what is there, its length unknown until it ends.

One thread pushes samples, others read them from the beginning; what has arrived lies in an unnamed temporary file, so hours of it take
no memory. What a model is given of it equals what it is given of the whole sound, bit for bit. Non-goals: where the samples come from;
what to do when they are late (live).

Shapes: n samples, F latents.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..scratch import ScratchFile
from ..timeline import Timeline
from .silence import SpeakingStream

Floats = NDArray[np.float32]
READ_SAMPLES = 160_000  # at a time
ENDLESS = sys.maxsize  # latents of a sound whose end nobody knows


class GrowingSound:
    """Mono samples that arrive piece by piece: `push` them, then `finish`."""

    def __init__(self, sample_rate: int = 16000) -> None:
        self.sample_rate = sample_rate
        self._file = ScratchFile("the sound")
        self._changed = threading.Condition()
        self._arrived, self._ended = 0, False

    @property
    def arrived(self) -> int:
        """Samples that are there."""
        with self._changed:
            return self._arrived

    @property
    def num_samples(self) -> int | None:
        """Samples of the whole sound, None while it may go on."""
        with self._changed:
            return self._arrived if self._ended else None

    def push(self, samples: Floats) -> None:
        """The next samples (n,) in -1..1, any number; InputError once the sound has ended, or where the disk is full."""
        with self._changed:
            if self._ended:
                raise InputError("audio", f"{len(samples)} samples", "came after the sound had ended", "begin another sound")
            self._file.append(np.ascontiguousarray(samples, np.float32).tobytes())
            self._arrived += len(samples)
            self._changed.notify_all()

    def finish(self) -> None:
        """Nothing follows: the length is known, whoever waits goes on."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, samples: int, timeout_s: float | None = None) -> bool:
        """Whether so many samples, or the end, have arrived within the time (None: however long it takes)."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended or self._arrived >= samples, timeout_s)

    def pieces(self) -> Iterator[Floats]:
        """All samples from the first in pieces (n,); waits for those that have not arrived."""
        at = 0
        while self.wait(at + 1) and (piece := self._read(at)).size:
            yield piece
            at += len(piece)

    def _read(self, start: int) -> Floats:
        with self._changed:
            count = min(READ_SAMPLES, self._arrived - start)
            return np.frombuffer(self._file.read(4 * start, 4 * count) if count else b"", np.float32)


class GrowingFlags:
    """When a growing sound speaks, by absolute levels: one flag a latent, found as it is asked for."""

    def __init__(self, sound: GrowingSound, timeline: Timeline, num_latents: Callable[[], int | None], stream: SpeakingStream) -> None:
        """`num_latents`: of the whole sound, None while it may go on."""
        self._sound, self._timeline, self._count, self._lock = sound, timeline, num_latents, threading.Lock()
        self._delay_s = stream.delay_s
        self._more = self._found(stream)
        self._flags = np.zeros(0, bool)

    def _found(self, stream: SpeakingStream) -> Iterator[NDArray[np.bool_]]:
        for piece in self._sound.pieces():
            yield stream.push(piece)
        yield stream.finish(self._count() or 0)

    def samples_needed(self, latents: range) -> int:
        """Samples after which the flags of these latents are final."""
        last = self._timeline.frames_of_latent(latents[-1]).stop
        return int((float(last / self._timeline.fps) + self._delay_s) * self._sound.sample_rate) + 1

    def __len__(self) -> int:
        count = self._count()
        return ENDLESS if count is None else count

    def __getitem__(self, i: int) -> bool:
        with self._lock:
            while len(self._flags) <= i and (more := next(self._more, None)) is not None:
                self._flags = np.concatenate([self._flags, more])
            return bool(self._flags[i])


class ConstantFlags:
    """Of a sound whose end nobody knows: it speaks always, or never."""

    def __init__(self, speaks: bool) -> None:
        self._speaks = speaks

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, i: int) -> bool:
        return self._speaks
