"""Sounds too long to hold: what a model hears of one, and when it speaks, read as it is needed.

A sound is read forwards in pieces; feature rows of the last stretch are kept, flags of all of it (a byte a latent). Whoever asks
for something earlier has it read again from the beginning. Both give what the whole sound would: rows bit for bit; flags too while
the sound is no longer than a stretch, beyond that the loud part they are relative to is that of what was heard by the end of the
minute, not of the hour. Non-goals: where the sound comes from (media).

Shapes: n samples, R rows, F latents, M mel bands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AudioConfig
from ..timeline import Timeline
from .features import StreamingLogMel
from .silence import FLOOR_DB, STRETCH_S, SpeakingStream, warn_if_silent
from .windows import window, window_rows

Floats = NDArray[np.float32]
KEPT_ROWS = 2000  # behind what was asked for last: a sampler that steps back a clip finds them


class SoundPieces(Protocol):
    """A sound that can be read again and again from its beginning."""

    def pieces(self) -> Iterator[Floats]:
        """All samples in pieces (n,)."""


class StoredSound(SoundPieces, Protocol):
    """One that is all there."""

    @property
    def sample_rate(self) -> int:
        """Samples a second."""

    @property
    def num_samples(self) -> int:
        """How many there are."""


class LongMelFeatures:
    """A sound in pieces as our own models are given it (see MelFeatures): of its log-mel rows what is needed is in memory."""

    def __init__(self, sound: SoundPieces, timeline: Timeline, cfg: AudioConfig) -> None:
        self._sound, self._timeline, self._cfg = sound, timeline, cfg
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._more: Iterator[Floats] = self._blocks()
        self._first, self._rows = 0, np.zeros((0, self._cfg.n_mels), np.float32)

    def _blocks(self) -> Iterator[Floats]:
        mel = StreamingLogMel(self._cfg)
        for piece in self._sound.pieces():
            yield mel.push(piece)
        yield mel.finish()

    def windows(self, latents: range, *, each_clip: bool = False) -> Tensor:
        """Windows (F, W, M) of consecutive latents; a window is the same wherever a clip begins."""
        with self._lock:
            self._reach(max(0, window_rows(latents[0], self._timeline, self._cfg).start), window_rows(
                latents[-1], self._timeline, self._cfg).stop)
            return torch.from_numpy(np.stack([
                window(self._rows, i, self._timeline, self._cfg, first=self._first) for i in latents]))

    def _reach(self, start: int, stop: int) -> None:
        """Have rows start..stop, or all there are."""
        if start < self._first:
            self._begin()
        parts, end = [self._rows], self._first + len(self._rows)
        while end < stop and (more := next(self._more, None)) is not None:
            parts.append(more)
            end += len(more)
            if end < start - KEPT_ROWS:
                parts, self._first = [], end
        rows = np.concatenate([np.zeros((0, self._cfg.n_mels), np.float32), *parts])
        spare = max(0, start - KEPT_ROWS - self._first)
        self._rows, self._first = rows[spare:], self._first + spare


class LongFlags:
    """When a stored sound speaks, by loudness: flags (F,) found as they are asked for; as an array, all of them."""

    def __init__(self, sound: StoredSound, num_latents: int, speaking: Callable[[], SpeakingStream]) -> None:
        self._sound, self._count, self._lock = sound, num_latents, threading.Lock()
        self._more = self._found(speaking())
        self._flags, self._heard = np.zeros(0, bool), 0

    def _found(self, stream: SpeakingStream) -> Iterator[NDArray[np.bool_]]:
        for piece in self._sound.pieces():
            self._heard += len(piece)
            yield stream.push(piece)
        last = stream.finish(self._count)
        warn_if_silent(stream.loudest_db >= FLOOR_DB, stream.loudest_db)
        yield last

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> bool:
        with self._lock:
            parts, have = [self._flags], len(self._flags)
            # as far ahead as a minute's flags need, a little each time: read all at once it would hold up a stream every minute
            ahead = round(STRETCH_S * self._sound.sample_rate) + self._sound.num_samples * i // self._count
            while (have <= i or self._heard < ahead) and (more := next(self._more, None)) is not None:
                parts.append(more)
                have += len(more)
            self._flags = np.concatenate(parts)[: self._count]
            return bool(self._flags[i])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self._count:
            _ = self[self._count - 1]
        return np.asarray(self._flags, dtype)
