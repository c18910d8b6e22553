"""Video files, written as they stream, with the input's sound: whole or not at all.

A video is H.264 in the colours of BT.709, as screens and browsers expect, with AAC. The sound is decoded from its source as the
frames come and interleaved with them, so neither is ever whole in memory; it ends where the picture ends. The index comes first,
so that a browser plays while it loads. The file has a temporary name until it is complete (outputs).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ..errors import InputError
from ..outputs import FORMATS, Staged, check_output, write_error
from .audio_io import Waveform
from .sound_reader import SoundReader, SoundSource

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

AAC_RATES = frozenset({48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})  # that every player plays
AAC_RATE = 48000  # for all others
LOUDEST = 4.0  # of full scale: far above it an encoder makes noise of a whole frame
BT709, LIMITED = 1, 1  # numbers of the standard: matrix, primaries and transfer are all 1
# What players with a decoder in hardware take of H.264: 4096 pixels a side, and the frame of level 5.2, 36864 blocks of 16 x 16
# pixels (4096 x 2304, 9.4 megapixels). Larger videos open in few players, or stutter.
MOST_SIDE, MOST_BLOCKS, BLOCK = 4096, 36864, 16


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


class VideoWriter:
    """A context manager; `write` frames in order. Leaving it by an error or a cancel leaves no file."""

    def __init__(
        self, path: Path, width: int, height: int, fps: Fraction | int, audio: SoundSource | Waveform | None = None, *,
        crf: int = 16, metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`metadata` is written into the container (ComfyUI reads its graph back from there)."""
        self.path = Path(path)
        self._size, self._fps, self._crf = (width, height), Fraction(fps), crf
        self._audio = audio
        self._metadata = dict(metadata or {})
        self._reformatter = VideoReformatter()  # one for all frames: it keeps its tables
        self._out: Any = None
        self._sound: _EncodedSound | None = None
        self.frames = 0

    def __enter__(self) -> Self:
        check_output(self.path, suffixes=tuple(FORMATS))
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(Staged(self.path))
            stack.callback(self._let_go)
            self._open(part)
            self._stack = stack.pop_all()
        return self

    def _open(self, part: Path) -> None:
        with self._explained():
            kind = FORMATS[self.path.suffix.lower()]
            flags = {} if kind == "matroska" else {"movflags": "+faststart+use_metadata_tags"}
            self._out = av.open(str(part), "w", format=kind, options=flags)
            self._out.metadata.update(self._metadata)
            self._video: Any = self._out.add_stream("libx264", rate=self._fps, options={"crf": str(self._crf), "preset": "veryfast"})
            self._video.width, self._video.height = written_size(*self._size)
            self._video.pix_fmt = "yuv420p"
            context = self._video.codec_context
            context.time_base = 1 / self._fps
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
            if self._audio is not None:
                self._sound = _EncodedSound(self._out, self._audio)

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3)."""
        with self._explained():
            for rgb in frames:
                odd = [(0, n % 2) for n in rgb.shape[:2]]
                frame = av.VideoFrame.from_ndarray(np.pad(rgb, [*odd, (0, 0)], mode="edge"), "rgb24")
                shown = self._reformatter.reformat(frame, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
                shown.pts, shown.time_base = self.frames, 1 / self._fps
                self._out.mux(self._video.encode(shown))
                self.frames += 1
            if self._sound is not None:
                self._sound.catch_up(self.frames / self._fps)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack, self._explained():
            self._out.mux(self._video.encode())
            if self._sound is not None:
                self._sound.end_at(self.frames / self._fps, 1 / self._fps / 2)
            self._out.close()

    def _let_go(self) -> None:
        """Close what is open, before the temporary file is renamed or removed."""
        if self._sound is not None:
            self._sound.close()
        if self._out is not None:
            with contextlib.suppress(Exception):  # a full disk fails here again; the first error is the one to tell
                self._out.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the disk in words a user can act on."""
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            raise write_error("out", self.path, error) from error
        except av.FFmpegError as error:
            raise InputError("out", self.path, f"cannot be encoded ({error})", "try another picture or sound") from error


class _EncodedSound:
    """The sound of a file or a waveform, encoded up to the time the picture has reached."""

    def __init__(self, out: Any, source: SoundSource | Waveform) -> None:
        self._out = out
        self._reader = None if isinstance(source, Waveform) else SoundReader(source, rate=_aac_rate, channels=None, warn=False)
        if self._reader is None:
            assert isinstance(source, Waveform)
            self._rate, self._layout, self._blocks = source.sample_rate, "mono", _pieces(source)
        else:
            self._rate, self._blocks = self._reader.rate, self._reader.blocks()
            self._layout = "stereo" if self._reader.channels == 2 else "mono"
        self._stream = out.add_stream("aac", rate=self._rate, layout=self._layout)
        self._written, self._held = 0, np.zeros((0, 0), np.float32)

    def catch_up(self, until_s: Fraction) -> None:
        """Encode what comes before `until_s`."""
        limit = int(until_s * self._rate)
        while self._written < limit:
            if not self._held.size:
                piece = next(self._blocks, None)
                if piece is None:
                    return
                self._held = np.atleast_2d(piece)
            part, self._held = np.split(self._held, [limit - self._written], axis=1)
            self._encode(part)

    def end_at(self, end_s: Fraction, slack_s: Fraction) -> None:
        """All that is left, cut or filled with silence where it is off by more than `slack_s`."""
        self.catch_up(end_s + slack_s)
        missing = int(end_s * self._rate) - self._written
        if missing > slack_s * self._rate:
            self._encode(np.zeros((2 if self._layout == "stereo" else 1, missing), np.float32))
        self._out.mux(self._stream.encode())

    def _encode(self, piece: NDArray[np.float32]) -> None:
        if not piece.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece.clip(-LOUDEST, LOUDEST)), "fltp", self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._written += piece.shape[1]
        self._out.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Let go of the source."""
        if self._reader is not None:
            self._reader.close()


def _aac_rate(own: int) -> int:
    return own if own in AAC_RATES else AAC_RATE


def _pieces(sound: Waveform) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(sound.samples), sound.sample_rate):
        yield np.asarray(sound.samples[start : start + sound.sample_rate], np.float32)
