"""Sounds as mono float32 at 16 kHz: whole in memory, or left in their file where they are long.

Non-goals: how a file is read (sound_reader); levels are kept as recorded, nothing is normalised. Paper section 3, audio input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .sound_reader import RATE, REMEDY, SoundReader, SoundSource, SoundTrack, louder_of_cancelling

WHOLE_S = 120.0  # a sound up to this length is held in memory: 8 MB
PIECE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Mono samples (n,) float32 in -1..1."""

    samples: NDArray[np.float32]
    sample_rate: int = RATE

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self.samples)

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class LongWaveform:
    """A sound that stays in its file: mono at 16 kHz, read again from its beginning by everyone who hears it.

    Its length is what the container says, or what its packets add up to: what is missing then is silence, what is over is cut.
    """

    source: SoundSource
    num_samples: int
    sample_rate: int = RATE

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def samples(self) -> NDArray[np.float32]:
        """All of it in memory (n,) float32, for those who must have it whole."""
        return np.concatenate(list(self.pieces()))

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """All samples in pieces (n,)."""
        left = self.num_samples
        with SoundReader(self.source, warn=False) as reader:
            for piece in reader.blocks():
                yield piece[:left]
                left -= len(piece[:left])
        while left > 0:
            yield np.zeros(min(left, PIECE), np.float32)
            left -= min(left, PIECE)


def open_audio(source: SoundSource, field: str = "audio") -> Waveform | LongWaveform:
    """The sound of a file: whole if it is short, else to be read as it is needed; InputError as `read_audio`."""
    with SoundReader(source, field=field) as reader:
        told, track = reader.told_s(), SoundTrack(path=reader.path, track=reader.track)
        if told is not None and told > WHOLE_S:
            return LongWaveform(source=track if reader.tracks > 1 else reader.path, num_samples=round(told * RATE))
    return read_audio(source, field=field)


def read_audio(source: SoundSource, *, origin: float | None = None, field: str = "audio") -> Waveform:
    """The sound of a file, from `origin` on its clock (None: from its first sample).

    InputError for a missing, empty or corrupt one, or one without sound.
    """
    with SoundReader(source, origin=origin, field=field) as reader:
        samples = np.concatenate([np.zeros(0, np.float32), *reader.blocks()])
        if len(samples) == 0:
            raise InputError(field, reader.path, "holds no sound", REMEDY)
    return Waveform(samples=samples)


def resample(samples: NDArray[np.float32], sample_rate: int) -> Waveform:
    """Channels (C, n) or samples (n,) at any rate to a Waveform."""
    mono = np.ascontiguousarray(_mono(samples), np.float32)
    if sample_rate == RATE or not len(mono):
        return Waveform(samples=mono)
    resampler = av.AudioResampler("flt", "mono", RATE)
    frame = av.AudioFrame.from_ndarray(mono[None], "flt", "mono")
    frame.sample_rate = sample_rate
    parts = [out.to_ndarray()[0] for f in (frame, None) for out in resampler.resample(f)]
    return Waveform(samples=np.concatenate(parts).astype(np.float32))


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.ndim == 1:
        return samples
    channel = louder_of_cancelling(samples) if len(samples) == 2 and samples.size else None
    return np.asarray(samples.mean(0) if channel is None else samples[channel], np.float32)
