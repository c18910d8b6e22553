"""One clock for pictures and sound, whatever the file's rates, starts and holes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.media import SoundReader, VideoReader, read_audio
from tm_core.media.video_reader import to_rgb

FPS, HOLE_S = Fraction(25), 1.0
Write = Callable[..., Path]


def numbered(count: int) -> np.ndarray:
    """Frames whose grey is their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3)).copy()


def greys(path: Path) -> list[tuple[int, int]]:
    with VideoReader(path, FPS, hole_s=HOLE_S) as pictures:
        return [(tick, round(float(to_rgb(frame).mean()))) for tick, frame in pictures]


@pytest.mark.parametrize("fps", [25, 30, 50, 24])
def test_a_tick_shows_what_is_on_the_screen(write: Write, tmp_path: Path, fps: int) -> None:
    seen = greys(write(tmp_path / "a.mp4", numbered(100), None, fps=fps))
    assert [t for t, _ in seen] == list(range(len(seen))) and abs(len(seen) - 100 / fps * 25) <= 1
    assert all(abs(grey - tick / 25 * fps) <= 2 for tick, grey in seen)


def stamped(path: Path, stamps: list[int], tone_from_ms: int | None = None) -> Path:
    """A video (mkv) with a frame at each of these milliseconds, and perhaps a sound that starts late."""
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        video.width = video.height = 32
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        sound: Any = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for i, ms in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(numbered(256)[i % 256], "rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if tone_from_ms is not None:
            piece = av.AudioFrame.from_ndarray(np.full((1, 16000), 8000, np.int16), "s16", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 16000, tone_from_ms * 16, Fraction(1, 16000)
            out.mux(sound.encode(piece))
            out.mux(sound.encode())
    return path


def test_a_hole_in_the_stamps_leaves_its_ticks_out(tmp_path: Path) -> None:
    path = stamped(tmp_path / "hole.mkv", [*range(0, 4000, 40), *range(10000, 14000, 40)])
    ticks = [t for t, _ in greys(path)]
    assert len(ticks) < 235 and 250 in ticks and 200 not in ticks


def test_a_late_sound_stays_late(tmp_path: Path) -> None:
    path = stamped(tmp_path / "late.mkv", list(range(0, 2000, 40)), tone_from_ms=400)
    with VideoReader(path, FPS, hole_s=HOLE_S) as pictures, SoundReader(path, origin=pictures.start_s) as sound:
        samples = sound.read(-100, 16000)
    onset = int(np.flatnonzero(np.abs(samples) > 0.1)[0]) - 100
    assert abs(onset - 6400) < 100


def test_pieces_of_sound_are_the_whole(write: Write, tmp_path: Path) -> None:
    tone = np.sin(np.arange(48000) * 0.05).astype(np.float32) * np.linspace(0, 1, 48000, dtype=np.float32)
    path = write(tmp_path / "a.mp4", numbered(75), tone)
    whole = read_audio(path).samples
    with SoundReader(path, origin=0.0) as sound:
        parts = [sound.read(a, b) for a, b in ((0, 9000), (8000, 20000), (30000, 48000))]
    for part, start in zip(parts, (0, 8000, 30000), strict=True):
        assert np.abs(part - whole[start : start + len(part)]).max() < 1e-4


def test_ranges_of_pictures(write: Write, tmp_path: Path) -> None:
    with VideoReader(write(tmp_path / "a.mp4", numbered(60), None), FPS) as pictures:
        first = [round(float(to_rgb(f).mean())) for f in pictures.frames(10, 20)]
        second = [round(float(to_rgb(f).mean())) for f in pictures.frames(20, 22)]
    assert np.abs(np.array(first) - np.arange(10, 20)).max() <= 2 and len(second) == 2 and abs(second[0] - 20) <= 2


def test_a_phone_held_upright(write: Write, tmp_path: Path) -> None:
    """The picture lies on its side in the file, which says so."""
    upright = np.zeros((10, 64, 32, 3), np.uint8)
    upright[:, :16] = 255
    path = write(tmp_path / "a.mp4", np.ascontiguousarray(np.rot90(upright, 1, (1, 2))), None)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise
    path.write_bytes(data)
    with VideoReader(path, FPS, hole_s=HOLE_S) as pictures:
        shown = to_rgb(next(iter(pictures))[1])
    assert shown.shape == (64, 32, 3) and shown[:12].mean() > 240 and shown[24:].mean() < 15


def test_a_file_that_ends_too_early_gives_what_it_has(write: Write, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 64, 64, 3)).astype(np.uint8)
    source = write(tmp_path / "a.mp4", noise, None)
    with av.open(str(source)) as old, av.open(str(tmp_path / "a.ts"), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    data = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "b.ts").write_bytes(data[: len(data) // 2])
    assert 20 < len(greys(tmp_path / "b.ts")) < 60


def test_sound_alone_is_no_video(assets: Path) -> None:
    with pytest.raises(InputError, match="no picture track"):
        VideoReader(next((assets / "speech").glob("*.wav")), FPS)
