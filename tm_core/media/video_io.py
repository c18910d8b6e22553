"""Video files: written as they stream, with the input's sound, whole or not at all; read frame by frame.

A video is H.264 + AAC in an mp4. The sound is decoded from its source as the frames come and interleaved
with them, so neither is ever whole in memory. The file has the name NAME.part until it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .audio_io import REMEDY, Waveform, check_file

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
# What players with a decoder in hardware take of H.264: 4096 pixels a side, and the frame of level 5.2, 36864 blocks of 16 x 16
# pixels (4096 x 2304, 9.4 megapixels). Larger videos open in few players, or stutter.
MOST_SIDE, MOST_BLOCKS, BLOCK = 4096, 36864, 16
REMEDY_OUT = "choose a folder that exists and that you may write to"


def playable_size(width: int, height: int) -> tuple[int, int]:
    """The size itself, or the largest one of about its shape that hardware decodes, in even numbers of pixels."""
    if max(width, height) <= MOST_SIDE and _blocks(width, height) <= MOST_BLOCKS:
        return width, height
    share = min(MOST_SIDE / max(width, height), (MOST_BLOCKS / _blocks(width, height)) ** 0.5)
    while _blocks(*(size := (_even(width * share), _even(height * share)))) > MOST_BLOCKS:
        share *= 0.999
    return size


def written_size(width: int, height: int) -> tuple[int, int]:
    """The size of a video of frames of this size: odd ones get their last column or row twice, as H.264 halves the colours' planes."""
    return width + width % 2, height + height % 2


def _blocks(width: int, height: int) -> int:
    return -(-width // BLOCK) * -(-height // BLOCK)


def _even(side: float) -> int:
    return max(2, round(side / 2) * 2)


def check_output(path: Path, field: str = "out") -> None:
    """InputError unless a file can be written at `path`; leaves nothing behind."""
    path = Path(path)
    if path.is_dir():
        raise InputError(field, path, "is a folder", "give a file name that ends in .mp4")
    if not path.parent.is_dir():
        raise InputError(field, path, f"there is no folder {path.parent}", REMEDY_OUT)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb"):
            pass
        part.unlink()
    except OSError as error:
        raise InputError(field, path, f"cannot be written ({error.strerror})", REMEDY_OUT) from error


class VideoWriter:
    """A context manager; `write` frames in order. Leaving it by an error or a cancel leaves no file."""

    def __init__(
        self, path: Path, width: int, height: int, fps: Fraction | int, audio: Path | str | Waveform | None = None, *,
        crf: int = 16, metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`metadata` is written into the container (ComfyUI reads its graph back from there)."""
        self.path = Path(path)
        self._part = self.path.with_name(self.path.name + ".part")
        self._size, self._fps, self._crf = (width, height), Fraction(fps), crf
        self._audio = audio
        self._metadata = dict(metadata or {})
        self.frames = 0

    def __enter__(self) -> Self:
        check_output(self.path)
        try:
            self._open()
        except BaseException:  # `with` does not call __exit__ for what fails here
            with contextlib.suppress(Exception):
                self._out.close()
            self._part.unlink(missing_ok=True)
            raise
        return self

    def _open(self) -> None:
        with self._explained():
            self._out = av.open(str(self._part), "w", format="mp4", options={"movflags": "use_metadata_tags"})
            self._out.metadata.update(self._metadata)
            self._video: Any = self._out.add_stream("libx264", rate=self._fps, options={"crf": str(self._crf), "preset": "veryfast"})
            self._video.width, self._video.height = written_size(*self._size)
            self._video.pix_fmt = "yuv420p"
            self._video.codec_context.time_base = 1 / self._fps
            self._sound = None if self._audio is None else _SoundTrack(self._out, self._audio)

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3)."""
        with self._explained():
            for rgb in frames:
                odd = [(0, n % 2) for n in rgb.shape[:2]]
                frame = av.VideoFrame.from_ndarray(np.pad(rgb, [*odd, (0, 0)], mode="edge"), "rgb24")
                frame.pts, frame.time_base = self.frames, 1 / self._fps
                self._out.mux(self._video.encode(frame))
                self.frames += 1
            if self._sound is not None:
                self._sound.catch_up(self.frames / self._fps)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with self._explained():
                    self._out.mux(self._video.encode())
                    if self._sound is not None:
                        self._sound.catch_up(None)
                    self._out.close()
                    os.replace(self._part, self.path)
            else:
                with contextlib.suppress(Exception):  # a full disk fails here again; the first error is the one to tell
                    self._out.close()
        finally:
            if self._sound is not None:
                self._sound.close()
            self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the disk in words a user can act on."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, InputError):
                raise
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            rule = "the disk is full" if full else f"cannot be written ({getattr(error, 'strerror', None) or error})"
            raise InputError("out", self.path, rule, "free some space or choose another disk" if full else REMEDY_OUT) from error


def _open_sound(path: Path) -> Any:
    check_file("audio", path, REMEDY)
    try:
        source = av.open(str(path))
    except av.FFmpegError as error:
        raise InputError("audio", path, f"cannot be read as sound ({error.strerror})", REMEDY) from error
    if not source.streams.audio:
        source.close()
        raise InputError("audio", path, "has no sound track", REMEDY)
    return source


class _SoundTrack:
    """The sound of a file or a waveform, encoded up to the time the picture has reached."""

    def __init__(self, out: Any, source: Path | str | Waveform) -> None:
        self._out, self._source = out, source
        self._file = None if isinstance(source, Waveform) else _open_sound(Path(source))
        rate, layout = (source.sample_rate, "mono") if isinstance(source, Waveform) else self._format()
        self._stream = out.add_stream("aac", rate=rate, layout=layout)
        self._resampler = av.AudioResampler("fltp", layout, rate)
        self._frames = self._waveform(source) if isinstance(source, Waveform) else self._decoded()
        self._rate, self._written, self._done = rate, 0, False

    def _format(self) -> tuple[int, str]:
        assert self._file is not None
        stream = self._file.streams.audio[0]
        rate = stream.rate if stream.rate in AAC_RATES else 48000
        return rate, "mono" if stream.channels == 1 else "stereo"

    @staticmethod
    def _waveform(source: Waveform) -> Iterator[av.AudioFrame]:
        for start in range(0, len(source.samples), source.sample_rate):
            piece = np.ascontiguousarray(source.samples[None, start : start + source.sample_rate], np.float32)
            frame = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
            frame.sample_rate = source.sample_rate
            yield frame

    def _decoded(self) -> Iterator[av.AudioFrame]:
        assert self._file is not None
        for frame in self._file.decode(audio=0):
            frame.pts = None
            yield frame

    def _next(self) -> av.AudioFrame | None:
        try:
            return next(self._frames, None)
        except av.FFmpegError as error:  # of the source, not of the output
            raise InputError("audio", self._source, f"cannot be read to its end ({error.strerror})", REMEDY) from error

    def catch_up(self, until_s: Fraction | None) -> None:
        """Encode up to `until_s`, or to the end."""
        while not self._done and (until_s is None or self._written < until_s * self._rate):
            frame = self._next()
            for piece in self._resampler.resample(frame):
                piece.pts, piece.time_base = self._written, Fraction(1, self._rate)
                self._written += piece.samples
                self._out.mux(self._stream.encode(piece))
            if frame is None:
                self._out.mux(self._stream.encode())
                self._done = True

    def close(self) -> None:
        """Let go of the source."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a media file holds; durations in seconds, None where there is no such track."""

    width: int | None
    height: int | None
    fps: Fraction | None
    frames: int
    video_s: float | None
    audio_s: float | None


def probe(path: Path) -> Probe:
    """Size, rate and the durations of both tracks, by the container's word and a count of frames; InputError if unreadable."""
    path = Path(path)
    check_file("video", path, "check the path")
    try:
        return _probe(path)
    except av.FFmpegError as error:
        raise InputError("video", path, "cannot be read as a video", "give an mp4 or another video file") from error


def _probe(path: Path) -> Probe:
    with av.open(str(path)) as f:
        video = f.streams.video[0] if f.streams.video else None
        audio = f.streams.audio[0] if f.streams.audio else None
        frames = sum(1 for p in f.demux(video) if p.size) if video else 0
        return Probe(
            width=video.width if video else None, height=video.height if video else None,
            fps=video.average_rate if video else None, frames=frames,
            video_s=float(video.duration * video.time_base) if video and video.duration and video.time_base else None,
            audio_s=float(audio.duration * audio.time_base) if audio and audio.duration and audio.time_base else None,
        )


def read_frames(path: Path, field: str = "video") -> tuple[Fraction, Iterator[NDArray[np.uint8]]]:
    """Frame rate and the frames (H, W, 3) of a video, one at a time; InputError for what is no video."""
    path = Path(path)
    if not path.is_file():
        raise InputError(field, path, "no such file", "check the path")
    try:
        container = av.open(str(path))
        rate = container.streams.video[0].average_rate
    except (av.FFmpegError, OSError, IndexError) as error:
        raise InputError(field, path, "cannot be read as a video", "give an mp4 or another video file") from error
    return Fraction(rate or 25), _frames(container)


def _frames(container: Any) -> Iterator[NDArray[np.uint8]]:
    with container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")
