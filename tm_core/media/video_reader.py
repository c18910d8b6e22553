"""The pictures of a video on a steady clock, forwards at bounded memory: one reader for everything that looks at videos.

Tick i is the picture shown at i / fps, counted from the file's first picture. Recorders stamp frames unevenly and stop and go: a
tick takes the frame that is on the screen. The sound of the same file is read on the same clock by `SoundReader(origin=start_s)`,
so a track that starts late stays late. Pictures stand the right way up. No seeking: many containers seek wrongly.

Shapes: T ticks, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .container import Damage, decoded, open_media

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

log = logging.getLogger(__name__)

REMEDY = "give an mp4 or another video file"
LATE = 0.25  # of a tick: frames stamped a little late still belong to their own tick
STOPPED_S = 30.0  # a frame is never on the screen for longer: its recorder stopped
USUAL = (24, 25, 30, 50, 60)  # frames a second
FASTEST, SLOWEST = 120, 1  # frames a second that a container may claim
COVER = 0x400  # a track that is a still: the cover of a song
MATRICES = (1, 4, 5, 7, 9)  # of colour that PyAV knows by the container's numbers


class VideoReader:
    """A context manager: iterate for (tick, frame), ask for ascending ranges, or for upright pictures.

    `fps` None: the file's own rate, of uneven ones the rate its frames are steps of. `hole_s`: a frame that stays for longer leaves
    the ticks out that follow; None: STOPPED_S. InputError for what is no video.
    """

    def __init__(self, path: Path, fps: Fraction | None = None, *, hole_s: float | None = None, field: str = "video") -> None:
        self.path, self._hole_s, self._field = Path(path), hole_s or STOPPED_S, field
        self._container = open_media(self.path, field, "a video", REMEDY)
        try:
            self._stream = _picture_track(self._container, self.path, field)
            self._stream.thread_type = "SLICE"  # frame threads keep a dozen frames each
            self.rate = steady_rate(self._stream)
        except BaseException:
            self._container.close()
            raise
        self.fps = fps or self.rate
        self._damage = Damage()
        self._origin: float | None = None
        self._ticks = self._run()
        self._next: tuple[int, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._ticks.close()
        self._container.close()

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound track."""
        return bool(self._container.streams.audio)

    @property
    def start_s(self) -> float:
        """The first picture on the container's clock, in seconds; InputError where there is none."""
        if self._origin is None:
            self._next = next(self._ticks, None)
        if self._origin is None:
            why = f" ({self._damage.reason})" if self._damage.reason else ""
            raise InputError(self._field, self.path, f"holds no picture that can be read{why}", REMEDY)
        return self._origin

    @property
    def damage(self) -> str | None:
        """What of the pictures could not be read so far, None: all could."""
        return f"{self._damage.packets} damaged places left out ({self._damage.reason})" if self._damage.packets else None

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while (tick := self._next or next(self._ticks, None)) is not None:
            self._next = None
            yield tick

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """Every tick's picture (H, W, 3); one that stays on is the same array again."""
        shown, picture = None, np.zeros((0, 0, 3), np.uint8)
        for _, frame in self:
            if frame is not shown:
                shown, picture = frame, to_rgb(frame)
            yield picture
        if self.damage:
            log.warning("%s: %s", self.path, self.damage)

    def frames(self, start: int, stop: int) -> Iterator[Any]:
        """The frames of ticks start..stop; a later call must not ask for earlier ones."""
        for tick in self:
            if tick[0] >= stop:
                self._next = tick
                return
            if tick[0] >= start:
                yield tick[1]

    def _run(self) -> Generator[tuple[int, Any], None, None]:
        tick, shown, end = 0, None, 0.0
        for time, frame in self._timed():
            if shown is not None:
                until = min(time, end)
                while (tick + LATE) / self.fps < until:
                    yield tick, shown
                    tick += 1
                if time > end:
                    tick = max(tick, int(time * self.fps + 1 - LATE))
            shown, end = frame, time + self._hole_s
        last = end - self._hole_s + float(1 / self.rate)
        while shown is not None and (tick + LATE) / self.fps < last:
            yield tick, shown
            tick += 1

    def _timed(self) -> Iterator[tuple[float, Any]]:
        """(seconds after the first picture, frame), never backwards, all of the first one's size."""
        before, size = 0.0, (0, 0)
        for _, frame in decoded(self._container, self._stream, self._damage):
            stamp = frame.time if frame.time is not None else before + (self._origin or 0.0) + float(1 / self.rate)
            if self._origin is None:
                self._origin, size = float(stamp), (frame.width, frame.height)
            before = max(before, stamp - self._origin)
            yield before, frame if (frame.width, frame.height) == size else frame.reformat(*size)


def _picture_track(container: Any, path: Path, field: str) -> Any:
    found = container.streams.best("video")
    if found is None or found.codec_context is None or int(found.disposition) & COVER:
        raise InputError(field, path, "has no picture track", REMEDY)
    return found


def steady_rate(stream: Any) -> Fraction:
    """Frames a second of a track; of uneven ones the rate its frames are steps of, else the next usual one."""
    average, base = (Fraction(rate) if rate and SLOWEST <= rate <= FASTEST else None for rate in (stream.average_rate, stream.base_rate))
    if average is None:
        return base or Fraction(25)
    if base is not None and abs(base / average - 1) < 0.01:
        return base if base.denominator in (1, 1001) else average  # an average of stamps in whole milliseconds is a little off
    if base is not None and base <= max(USUAL):
        return base
    return next((Fraction(usual) for usual in USUAL if usual >= average * Fraction(99, 100)), average)


def to_rgb(frame: Any, longest: int | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 the right way up; `longest`: the longer side is shrunk to at most that."""
    factor = 1.0 if longest is None else min(1.0, longest / max(frame.width, frame.height))
    size = {"width": max(2, round(frame.width * factor)), "height": max(2, round(frame.height * factor))} if factor < 1 else {}
    matrix = int(frame.colorspace)
    known = {"src_colorspace": av.video.reformatter.Colorspace(matrix)} if matrix in MATRICES else {}
    turns = round(frame.rotation / 90) % 4  # phones record lying down and say so
    return np.ascontiguousarray(np.rot90(frame.reformat(format="rgb24", **size, **known).to_ndarray(), turns))


def read_frames(path: Path, field: str = "video") -> tuple[Fraction, Iterator[NDArray[np.uint8]]]:
    """Frame rate and the pictures (H, W, 3) of a video, one at a time; InputError for what is no video."""
    reader = VideoReader(path, field=field)
    return reader.fps, _pictures_of(reader)


def _pictures_of(reader: VideoReader) -> Iterator[NDArray[np.uint8]]:
    with reader:
        yield from reader.pictures()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a media file holds; size as it is shown, durations in seconds, None where there is no such track."""

    width: int | None
    height: int | None
    fps: Fraction | None
    frames: int
    video_s: float | None
    audio_s: float | None


def probe(path: Path) -> Probe:
    """Size, rate and the durations of both tracks, by the stamps of what is in them; InputError if unreadable."""
    with open_media(Path(path), "video", "a video", REMEDY) as container:
        video = container.streams.best("video")
        audio = container.streams.best("audio")
        spans = _spans(container, [stream for stream in (video, audio) if stream is not None])
        frames, video_s = spans.get(video.index, (0, None)) if video else (0, None)
        return Probe(
            width=video.width if video else None, height=video.height if video else None,
            fps=steady_rate(video) if video else None, frames=frames, video_s=video_s,
            audio_s=spans.get(audio.index, (0, None))[1] if audio else None)


def _spans(container: Any, streams: list[Any]) -> dict[int, tuple[int, float]]:
    """Packets, and seconds from the first to the end of the last or as the track says, of each stream by its index."""
    counts: dict[int, int] = {}
    edges: dict[int, tuple[Fraction, Fraction]] = {}
    for packet in container.demux(streams):
        if not packet.size:
            continue
        at = packet.stream.index
        counts[at] = counts.get(at, 0) + 1
        if packet.pts is not None and packet.time_base:
            start, end = packet.pts * packet.time_base, (packet.pts + (packet.duration or 0)) * packet.time_base
            low, high = edges.get(at, (start, end))
            edges[at] = min(low, start), max(high, end)
    told = {s.index: s.duration * s.time_base for s in streams if s.duration and s.time_base}
    return {at: (counts[at], float(told.get(at, high - low))) for at, (low, high) in edges.items()}
