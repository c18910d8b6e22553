"""A whole sound in memory, as mono float32 at 16 kHz.

Non-goals: how a file is read (sound_reader); levels are kept as recorded, nothing is normalised. Paper section 3, audio input.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .sound_reader import RATE, REMEDY, SoundReader, SoundSource, louder_of_cancelling


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Mono samples (n,) float32 in -1..1."""

    samples: NDArray[np.float32]
    sample_rate: int = RATE

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


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
