"""Any sound PyAV reads, as mono float32 at 16 kHz.

Mono is the mean of left and right (ffmpeg's own downmix adds 3 dB to what both hold, so the same voice would sound
louder from a stereo file). Non-goals: levels are kept as recorded, nothing is normalised. Paper section 3, audio input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

RATE = 16000
PADDING_S = 0.25  # two frames of 1024 samples at 8 kHz
REMEDY = "give a sound file such as wav, mp3, flac or m4a, or a video with sound"


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Mono samples (n,) float32 in -1..1."""

    samples: NDArray[np.float32]
    sample_rate: int = RATE

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


def check_file(field: str, path: Path, remedy: str) -> None:
    """InputError unless `path` is a file with something in it."""
    if path.is_dir():
        raise InputError(field, path, "is a folder", remedy)
    if not path.is_file():
        raise InputError(field, path, "no such file", "check the path")
    if path.stat().st_size == 0:
        raise InputError(field, path, "is empty (0 bytes)", remedy)


def read_audio(path: Path) -> Waveform:
    """The sound of a file; InputError for a missing, empty or corrupt one, or one without sound."""
    path = Path(path)
    check_file("audio", path, REMEDY)
    try:
        samples = _decode(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError("audio", path, f"cannot be read as sound ({_reason(error)})", REMEDY) from error
    if len(samples) == 0:
        raise InputError("audio", path, "holds no sound", REMEDY)
    return Waveform(samples=samples)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _decode(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise InputError("audio", path, "has no sound track", REMEDY)
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono" if stream.channels == 1 else "stereo", RATE)
        parts = [np.zeros(0, np.float32)]
        for frame in container.decode(stream):
            frame.pts = None  # gaps in time stamps are not silence
            parts += [out.to_ndarray().mean(0) for out in resampler.resample(frame)]
        if len(parts) > 1:
            parts += [out.to_ndarray().mean(0) for out in resampler.resample(None)]
        samples = np.concatenate(parts).astype(np.float32)
        return samples[: _told_length(stream, len(samples))]


def _told_length(stream: av.AudioStream, decoded: int) -> int:
    """Samples at 16 kHz without the padding of an encoder's last frame, where the container tells the true length."""
    if not stream.duration or stream.time_base is None:
        return decoded
    told = round(stream.duration * stream.time_base * RATE)
    return told if 0 <= decoded - told <= PADDING_S * RATE else decoded  # farther off: the container is wrong, not padded


def resample(samples: NDArray[np.float32], sample_rate: int) -> Waveform:
    """Channels (C, n) or samples (n,) at any rate to a Waveform."""
    mono = samples.mean(0) if samples.ndim == 2 else samples
    mono = np.ascontiguousarray(mono, np.float32)
    if sample_rate == RATE or not len(mono):
        return Waveform(samples=mono)
    resampler = av.AudioResampler("flt", "mono", RATE)
    frame = av.AudioFrame.from_ndarray(mono[None], "flt", "mono")
    frame.sample_rate = sample_rate
    parts = [out.to_ndarray()[0] for f in (frame, None) for out in resampler.resample(f)]
    return Waveform(samples=np.concatenate(parts).astype(np.float32))
