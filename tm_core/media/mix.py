"""Several sounds as one stereo wave file: each with its level, its place between left and right, and when it begins.

Read at full rate, a track at a time. A voice keeps its loudness wherever it stands: equal power panning, 3 dB less on either side
in the middle made up again. Nothing is normalised; where the sum would clip, all of it is turned down, and the log says by how
much. Non-goals: filters, reverberation.

Shapes: n samples, C = 2 channels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .audio_io import REMEDY, Waveform, check_file

log = logging.getLogger(__name__)

MIX_RATE = 48000
BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Track:
    """A sound in a mix; `pan` -1 left to 1 right."""

    sound: Path | Waveform
    gain_db: float = 0.0
    pan: float = 0.0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.pan <= 1:
            raise InputError("pan", self.pan, "must be -1 (left) to 1 (right)", "use 0 for the middle")
        if self.start_s < 0:
            raise InputError("start_s", self.start_s, "a sound cannot begin before the video", "use 0 or more")

    @property
    def gains(self) -> tuple[float, float]:
        """Factors of left and right."""
        angle, level = (self.pan + 1) * math.pi / 4, 10 ** (self.gain_db / 20)
        return level * math.cos(angle) * math.sqrt(2), level * math.sin(angle) * math.sqrt(2)


def distinct(tracks: Sequence[Track]) -> list[Track]:
    """Each sound once: characters who share a recording bring it along each, and it was spoken once.

    The same file, or samples, beginning together with one level and place; whoever wants it twice changes one of these.
    """
    heard: dict[object, Track] = {}
    for track in tracks:
        sound = track.sound if isinstance(track.sound, Path) else id(track.sound)
        heard.setdefault((sound, track.gain_db, track.pan, track.start_s), track)
    return list(heard.values())


def mix(tracks: Sequence[Track], seconds: float) -> NDArray[np.float32]:
    """All distinct tracks as (2, n) at MIX_RATE, `seconds` long, never above full scale."""
    out = np.zeros((2, round(seconds * MIX_RATE)), np.float32)
    for track in distinct(tracks):
        samples = _stereo(track.sound)
        start = round(track.start_s * MIX_RATE)
        count = max(0, min(samples.shape[1], out.shape[1] - start))
        out[:, start : start + count] += samples[:, :count] * np.array(track.gains, np.float32)[:, None]
    peak = float(np.abs(out).max(initial=0.0))
    if peak > 1:
        log.warning("the mix would clip: turned down by %.1f dB", 20 * math.log10(peak))
        out /= peak
    return out


def write_mix(tracks: Sequence[Track], seconds: float, path: Path) -> Path:
    """The mix as a wave file of 16 bits; InputError where it cannot be written."""
    samples = mix(tracks, seconds)
    try:
        with av.open(str(path), "w", format="wav", options={"rf64": "auto"}) as container:
            stream = container.add_stream("pcm_s16le", rate=MIX_RATE, layout="stereo")
            for start in range(0, samples.shape[1], BLOCK):
                block = np.rint(samples[:, start : start + BLOCK].T * 32767).astype(np.int16).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "s16", "stereo")
                frame.sample_rate, frame.pts = MIX_RATE, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        path.unlink(missing_ok=True)
        raise InputError("audio", path, f"the mixed sound cannot be kept there ({error})", "free some disk space") from error
    return path


def _stereo(sound: Path | Waveform) -> NDArray[np.float32]:
    """(2, n) at MIX_RATE; a mono sound is as loud on both sides."""
    resampler = av.AudioResampler("fltp", "stereo", MIX_RATE)
    parts: list[NDArray[np.float32]] = []
    if isinstance(sound, Waveform):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.stack([sound.samples] * 2), np.float32), "fltp", "stereo")
        frame.sample_rate = sound.sample_rate
        parts = [piece.to_ndarray().astype(np.float32) for f in (frame, None) for piece in resampler.resample(f)]
    else:
        check_file("audio", sound, REMEDY)
        parts = _decoded(sound)
    return np.concatenate([np.zeros((2, 0), np.float32), *parts], 1)


def _decoded(path: Path) -> list[NDArray[np.float32]]:
    parts: list[NDArray[np.float32]] = []
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise InputError("audio", path, "has no sound track", REMEDY)
        stream = container.streams.audio[0]
        mono = stream.codec_context.channels == 1
        resampler = av.AudioResampler("fltp", "mono" if mono else "stereo", MIX_RATE)  # ffmpeg would turn mono down on its way to stereo
        for frame in container.decode(stream):
            frame.pts = None
            parts += [piece.to_ndarray().astype(np.float32) for piece in resampler.resample(frame)]
        parts += [piece.to_ndarray().astype(np.float32) for piece in resampler.resample(None)]
    return [np.repeat(part, 2, 0) if mono else part for part in parts]
