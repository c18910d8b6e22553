"""Pictures and sound of a file on one clock, read forwards at bounded memory.

Tick i is the picture shown at i / fps, counted from the file's first picture; the sound is cut on the same clock, so a
track that starts late stays late. Recorders stamp frames unevenly and stop and go: a tick takes the frame that is on the
screen, a hole in the stamps leaves its ticks out. No seeking: many containers seek wrongly.
Shapes: T ticks, H x W pixels, n samples at 16 kHz.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...inputs import check_file
from ...media.audio_io import RATE

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

log = logging.getLogger(__name__)

REMEDY = "give a video file that plays to its end"
LATE = 0.25  # of a tick: frames stamped a little late still belong to their own tick
HOLE_S = 1.0  # a frame is never on the screen for longer: its recorder stopped
GAP_S, MOST_GAP_S = 0.05, 600.0  # a jump of the sound's stamps that is neither rounding nor nonsense


def open_media(path: Path) -> Any:
    """An open container; InputError for what is not a media file."""
    check_file("video", path, REMEDY)
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError("video", path, f"cannot be read as a video ({_why(error)})", REMEDY) from error


class Pictures:
    """Ticks of a video, one pass: iterate, or ask for ascending ranges. A context manager."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.path, self.fps = path, fps
        self.damage: str | None = None  # why the file ended before its end
        self._container = open_media(path)
        if not self._container.streams.video:
            self._container.close()
            raise InputError("video", path, "has no picture track", REMEDY)
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads keep a dozen frames each
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.origin: float | None = None  # the first picture on the container's clock, in seconds
        self._ticks = self._run()
        self._next: tuple[int, av.VideoFrame] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ticks.close()
        self._container.close()

    def __iter__(self) -> Iterator[tuple[int, av.VideoFrame]]:
        return self._ticks

    def frames(self, start: int, stop: int) -> Iterator[av.VideoFrame]:
        """The pictures of ticks start..stop; a later call must not ask for earlier ones."""
        while True:
            tick = self._next or next(self._ticks, None)
            self._next = None
            if tick is None or tick[0] >= stop:
                self._next = tick
                return
            if tick[0] >= start:
                yield tick[1]

    def _run(self) -> Generator[tuple[int, av.VideoFrame], None, None]:
        tick, shown, end = 0, None, 0.0
        for time, frame in self._timed():
            if shown is not None:
                until = min(time, end)
                while (tick + LATE) / self.fps < until:
                    yield tick, shown
                    tick += 1
                if time > end:
                    tick = max(tick, int(time * self.fps + 1 - LATE))
            shown, end = frame, time + HOLE_S
        last = end - HOLE_S + float(1 / self.rate)
        while shown is not None and (tick + LATE) / self.fps < last:
            yield tick, shown
            tick += 1

    def _timed(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds after the first picture, picture), never backwards."""
        before = 0.0
        try:
            for frame in self._container.decode(video=0):
                stamp = frame.time if frame.time is not None else before + (self.origin or 0.0) + float(1 / self.rate)
                if self.origin is None:
                    self.origin = stamp
                before = max(before, stamp - self.origin)
                yield before, frame
        except (av.FFmpegError, OSError, ValueError) as error:
            self.damage = f"damaged after {before:.1f} s ({_why(error)})"
            log.warning("%s: %s", self.path, self.damage)


class Sound:
    """The mono 16 kHz sound of a file, in ascending pieces; silence outside it."""

    def __init__(self, path: Path, origin: float) -> None:
        self._container = open_media(path)
        self.present = bool(self._container.streams.audio)
        self._origin, self._start = origin, 0
        self._held: NDArray[np.float32] = np.zeros(0, np.float32)
        self._more = self._pieces() if self.present else iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples start..stop after the first picture; `start` must not be below that of an earlier call."""
        self._drop(start)
        while self._start + len(self._held) < stop and (piece := next(self._more, None)) is not None:
            self._held = np.concatenate([self._held, piece])
            self._drop(start)
        out = np.zeros(stop - start, np.float32)
        low, high = max(start, self._start), min(stop, self._start + len(self._held))
        if low < high:
            out[low - start : high - start] = self._held[low - self._start : high - self._start]
        return out

    def _drop(self, start: int) -> None:
        spare = min(max(0, start - self._start), len(self._held))
        self._held, self._start = self._held[spare:], self._start + spare

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        stream = self._container.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono" if stream.channels == 1 else "stereo", RATE)
        end: float | None = None  # where the sound so far ends, on the container's clock
        try:
            for frame in self._container.decode(stream):
                if end is None:
                    end = frame.time if frame.time is not None else self._origin
                    self._start = round((end - self._origin) * RATE)
                hole = 0.0 if frame.time is None else frame.time - end
                if GAP_S < hole < MOST_GAP_S:
                    yield np.zeros(round(hole * RATE), np.float32)
                    end += hole
                end += frame.samples / frame.sample_rate
                frame.pts = None
                yield from (out.to_ndarray().mean(0) for out in resampler.resample(frame))
            yield from (out.to_ndarray().mean(0) for out in resampler.resample(None) if end is not None)
        except (av.FFmpegError, OSError, ValueError) as error:
            log.warning("%s: its sound ends early (%s)", self._container.name, _why(error))


def to_rgb(frame: av.VideoFrame, longest: int | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 the right way up; `longest`: the longer side is shrunk to at most that."""
    factor = 1.0 if longest is None else min(1.0, longest / max(frame.width, frame.height))
    if factor < 1:
        frame = frame.reformat(width=max(2, round(frame.width * factor)), height=max(2, round(frame.height * factor)))
    turns = round(frame.rotation / 90) % 4  # phones record lying down and say so
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
