"""One video in many wrappings: containers, rotation tags, uneven stamps, tracks that begin at different times, silent tracks."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CODECS = {  # container: picture, sound
    "mp4": ("libx264", "aac"), "mov": ("libx264", "aac"), "mkv": ("libx264", "aac"), "webm": ("libvpx-vp9", "libopus"),
    "ts": ("libx264", "aac"), "avi": ("mjpeg", "pcm_s16le")}
MUXERS = {"mkv": "matroska", "ts": "mpegts"}
OPTIONS = {
    "libx264": {"crf": "8", "preset": "ultrafast"}, "mjpeg": {"qscale": "2", "flags": "+qscale"},
    "libvpx-vp9": {"crf": "8", "b": "0", "deadline": "realtime", "cpu-used": "8"}}
MILLISECOND = Fraction(1, 1000)
TURNED = {90: (0, 1 << 16, -(1 << 16), 0), 180: (-(1 << 16), 0, 0, -(1 << 16)), 270: (0, -(1 << 16), 1 << 16, 0)}  # as mp4 writes it


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """How a video is written: a quarter turn clockwise that players undo, when the sound begins against the picture, stamps."""

    container: str
    turn: int = 0
    sound_start_s: float = 0.0
    uneven: bool = False
    silent_tracks: int = 0
    fps: int = 25
    pictures: bool = True

    def __str__(self) -> str:
        parts = [self.container, f"turned {self.turn}" * bool(self.turn), f"sound at {self.sound_start_s:g} s" * bool(self.sound_start_s),
                 "uneven" * self.uneven, f"{self.silent_tracks} silent tracks first" * bool(self.silent_tracks)]
        return ", ".join(part for part in parts if part)

    def kept(self, count: int) -> list[int]:
        """Frames that are written: of an uneven video some stay on for two or three frames' time."""
        return [i for i in range(count) if not self.uneven or i % 7 not in (2, 4, 5)]


def wrap(path: Path, frames: np.ndarray, samples: np.ndarray, how: Wrapping) -> Path:
    """Frames (T, H, W, 3) and 16 kHz samples (n,) as a file."""
    picture, sound = CODECS[how.container]
    with av.open(str(path), "w", format=MUXERS.get(how.container, how.container)) as out:
        video = _video(out, picture, np.rot90(frames, how.turn // 90, (1, 2)), how) if how.pictures else None
        rate = 48000 if sound == "libopus" else 16000
        tracks = [out.add_stream(sound, rate=rate, layout="mono") for _ in range(how.silent_tracks + 1)]
        if video is not None:
            _write_video(out, video, np.rot90(frames, how.turn // 90, (1, 2)), how)
        for number, track in enumerate(tracks):
            _write_sound(out, track, samples if number == how.silent_tracks else np.zeros_like(samples), rate, how)
    if how.turn:
        _tag(path, how.turn)
    return path


def _delay(how: Wrapping) -> tuple[float, float]:
    """Seconds at which picture and sound begin: nothing begins before 0."""
    return max(0.0, -how.sound_start_s), max(0.0, how.sound_start_s)


def _video(out: Any, codec: str, frames: np.ndarray, how: Wrapping) -> Any:
    video = out.add_stream(codec, rate=how.fps, options=OPTIONS[codec])
    video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuvj420p" if codec == "mjpeg" else "yuv420p"
    video.codec_context.time_base = Fraction(1, how.fps) if how.container == "avi" else MILLISECOND
    return video


def _write_video(out: Any, video: Any, frames: np.ndarray, how: Wrapping) -> None:
    base = video.codec_context.time_base
    for i in how.kept(len(frames)):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[i]), "rgb24")
        frame.pts, frame.time_base = round((_delay(how)[0] + i / how.fps) / base), base
        out.mux(video.encode(frame))
    out.mux(video.encode())


def _write_sound(out: Any, track: Any, samples: np.ndarray, rate: int, how: Wrapping) -> None:
    resampler = av.AudioResampler(track.codec_context.format.name, "mono", rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    at = round(_delay(how)[1] * rate)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        piece.pts, piece.time_base = at, Fraction(1, rate)
        at += piece.samples
        out.mux(track.encode(piece))
    out.mux(track.encode())


def _tag(path: Path, turn: int) -> None:
    """Write the rotation into the picture track's header, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = TURNED[turn]
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
