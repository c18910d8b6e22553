"""Several sounds as one stereo wave file: each with its level, its place between left and right, and when it begins.

Read at full rate, block by block and twice: for the peak, then to write; memory does not grow with the sounds. A voice keeps
its loudness wherever it stands: equal power panning, 3 dB less on either side in the middle made up again. Nothing is
normalised; where the sum would clip, all of it is turned down, and the log says by how much. Non-goals: filters, reverberation.

Shapes: n samples, C = 2 channels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..media.audio_io import Waveform
from ..media.sound_reader import SoundReader, SoundSource

log = logging.getLogger(__name__)

MIX_RATE = 48000
BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Track:
    """A sound in a mix; `pan` -1 left to 1 right."""

    sound: SoundSource | Waveform
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
        sound = id(track.sound) if isinstance(track.sound, Waveform) else track.sound
        heard.setdefault((sound, track.gain_db, track.pan, track.start_s), track)
    return list(heard.values())


def mix(tracks: Sequence[Track], seconds: float) -> Iterator[NDArray[np.float32]]:
    """The sum of all distinct tracks as blocks (2, <= BLOCK) at MIX_RATE, `seconds` long, never above full scale."""
    tracks, count = distinct(tracks), round(seconds * MIX_RATE)
    peak = max((float(np.abs(block).max(initial=0.0)) for block in _sums(tracks, count)), default=0.0)
    if peak > 1:
        log.warning("the mix would clip: turned down by %.1f dB", 20 * math.log10(peak))
    for block in _sums(tracks, count):
        yield block / max(1.0, peak)


def write_mix(tracks: Sequence[Track], seconds: float, path: Path) -> Path:
    """The mix as a wave file of 16 bits; InputError where it cannot be written."""
    try:
        with av.open(str(path), "w", format="wav", options={"rf64": "auto"}) as container:
            stream = container.add_stream("pcm_s16le", rate=MIX_RATE, layout="stereo")
            start = 0
            for block in mix(tracks, seconds):
                samples = np.rint(block.T * 32767).astype(np.int16).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", "stereo")
                frame.sample_rate, frame.pts = MIX_RATE, start
                container.mux(stream.encode(frame))
                start += block.shape[1]
            container.mux(stream.encode(None))
    except InputError:
        path.unlink(missing_ok=True)
        raise
    except (av.FFmpegError, OSError) as error:
        path.unlink(missing_ok=True)
        raise InputError("audio", path, f"the mixed sound cannot be kept there ({error})", "free some disk space") from error
    return path


def _sums(tracks: Sequence[Track], count: int) -> Iterator[NDArray[np.float32]]:
    """Blocks (2, <= BLOCK) of all tracks added up, `count` samples in all."""
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(_Reader(track))) for track in tracks]
        for start in range(0, count, BLOCK):
            total = np.zeros((2, min(BLOCK, count - start)), np.float32)
            for reader in readers:
                reader.add(total)
            yield total


class _Reader:
    """A track from the video's beginning on, with silence before and after it."""

    def __init__(self, track: Track) -> None:
        self._gains = np.array(track.gains, np.float32)[:, None]
        self._pieces, self._held = _stereo(track.sound), np.zeros((2, 0), np.float32)
        self._silence = round(track.start_s * MIX_RATE)

    def add(self, total: NDArray[np.float32]) -> None:
        """Its next samples onto a block (2, n), in place."""
        before = min(self._silence, total.shape[1])
        self._silence -= before
        while self._held.shape[1] < total.shape[1] - before and (piece := next(self._pieces, None)) is not None:
            self._held = np.concatenate([self._held, piece], 1)
        part, self._held = np.split(self._held, [total.shape[1] - before], 1)
        total[:, before : before + part.shape[1]] += part * self._gains

    def close(self) -> None:
        """Let go of the file."""
        self._pieces.close()


def _stereo(sound: SoundSource | Waveform) -> Generator[NDArray[np.float32], None, None]:
    """Pieces (2, n) at MIX_RATE; a mono sound is as loud on both sides."""
    if not isinstance(sound, Waveform):
        with SoundReader(sound, rate=MIX_RATE, channels=2, warn=False) as reader:
            yield from reader.blocks()
        return
    resampler = av.AudioResampler("fltp", "stereo", MIX_RATE)
    for start in range(0, len(sound.samples), BLOCK):
        block = sound.samples[start : start + BLOCK]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.stack([block] * 2), np.float32), "fltp", "stereo")
        frame.sample_rate = sound.sample_rate
        yield from _arrays(resampler.resample(frame))
    yield from _arrays(resampler.resample(None))


def _arrays(frames: Sequence[av.AudioFrame]) -> list[NDArray[np.float32]]:
    return [frame.to_ndarray().astype(np.float32) for frame in frames]
