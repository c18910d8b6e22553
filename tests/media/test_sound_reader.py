"""Sounds as people have them: damaged, cut, mislabelled, silent in their first track. Time is kept, nothing is refused for a scratch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.media import SoundReader, SoundTrack, VideoWriter, probe, read_audio

RATE, SECONDS = 44100, 4.0
FRAME_S = 0.04
KINDS = {
    "mp3": "libmp3lame", "aac": "aac", "flac": "flac", "opus": "libopus", "m4a": "aac", "mkv": "libopus", "webm": "libopus",
    "mka": "mp2", "ts": "mp2"}


def beeps(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone that is loud in the first and last 0.5 s and soft between."""
    t = np.arange(round(seconds * rate)) / rate
    level = np.where((t < 0.5) | (t >= seconds - 0.5), 0.5, 0.1)
    return np.asarray(level * np.sin(2 * np.pi * 330 * t), np.float32)


def encode(path: Path, codec: str, channels: list[np.ndarray], rate: int = RATE) -> Path:
    """One track for each entry (C, n) of `channels`."""
    rate = 48000 if codec == "libopus" else rate
    kind = {".opus": "ogg", ".m4a": "mp4", ".ts": "mpegts", ".aac": "adts"}.get(path.suffix)
    clusters = {"cluster_time_limit": "250"} if path.suffix in (".mkv", ".webm", ".mka") else {}
    with av.open(str(path), "w", format=kind, options=clusters) as out:
        made = []
        for data in channels:
            stream: Any = out.add_stream(codec, rate=rate, layout="mono" if len(data) == 1 else "stereo")
            made.append((stream, av.AudioResampler(stream.codec_context.format.name, stream.layout, rate), data))
        for stream, resampler, data in made:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data, np.float32), "fltp", stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(stream.encode(piece))
            out.mux(stream.encode())
    return path


def level(samples: np.ndarray) -> float:
    """Amplitude of the tone in the middle, where an encoder's edges are far."""
    middle = samples[len(samples) * 2 // 5 : len(samples) * 3 // 5]
    return float(np.sqrt(2 * (middle.astype(np.float64) ** 2).mean()))


def garbage(data: bytes, start: float, count: int) -> bytes:
    at = round(len(data) * start)
    return data[:at] + np.random.default_rng(1).bytes(count) + data[at + count :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage in the middle": lambda data: garbage(data, 0.5, max(400, len(data) // 40)),
    "zeros in the middle": lambda data: data[: len(data) // 2] + bytes(600) + data[len(data) // 2 + 600 :],
    "two scratches": lambda data: garbage(garbage(data, 0.3, 60), 0.7, 60),
    "zeros after the end": lambda data: data + bytes(20000),
    "a tag after the end": lambda data: data + b"TAG" + b"title".ljust(125, b"\0"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {kind: encode(folder / f"a.{kind}", codec, [beeps()[None]]).read_bytes() for kind, codec in KINDS.items()}


# an index or a page lost to garbage takes more with it than the bytes that were hit; what follows keeps its time where stamps tell it
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_keeps_its_time(tmp_path: Path, whole: dict[str, bytes], kind: str, damage: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(whole[kind])
    before = read_audio(path)
    path.write_bytes(DAMAGES[damage](whole[kind]))
    sound = read_audio(path)
    # ffmpeg skips what is no ADTS frame without a word about how much it was
    assert sound.duration_s == pytest.approx(before.duration_s, abs=0.1 if kind == "aac" else FRAME_S)
    assert before.duration_s == pytest.approx(SECONDS, abs=0.05)  # bare AAC does not say how much of its last frame is padding
    loud = [float(np.abs(part).max()) for part in (sound.samples[1600:6400], sound.samples[-6400:-3200])]
    assert min(loud) > 0.3, loud


def test_a_frame_cut_at_the_start_is_left_out(tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / "x.mp3").write_bytes(whole["mp3"][len(whole["mp3"]) // 3 + 77 :])
    assert read_audio(tmp_path / "x.mp3").duration_s == pytest.approx(SECONDS * 2 / 3, abs=0.1)


def test_a_header_that_counts_too_few_frames_cuts_nothing(tmp_path: Path, whole: dict[str, bytes]) -> None:
    data = bytearray(whole["mp3"])
    at = next(i for i in (data.find(b"Xing"), data.find(b"Info")) if i >= 0) + 8
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") - 7).to_bytes(4, "big")
    (tmp_path / "x.mp3").write_bytes(data)
    assert read_audio(tmp_path / "x.mp3").duration_s == pytest.approx(SECONDS, abs=FRAME_S)


@pytest.mark.parametrize("name", ["hundred_bytes_missing.mp3", "one_damaged_stretch.mp3", "zeros_after_the_end.mp3"])
def test_reported_files_last_as_long_as_they_did(shared: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sound = read_audio(shared / "field" / name)
    assert sound.duration_s == pytest.approx(3.214, abs=FRAME_S)
    assert "its sound is damaged" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_an_error_of_the_sound(tmp_path: Path, value: float) -> None:
    samples = beeps()
    samples[RATE] = value
    path = encode(tmp_path / "x.wav", "pcm_f32le", [samples[None]])
    with pytest.raises(InputError, match=r"^audio: .*x\.wav: its samples are not all finite numbers"):
        read_audio(path)
    with pytest.raises(InputError, match=r"^audio: "), VideoWriter(tmp_path / "o.mp4", 64, 64, 25, path) as video:
        video.write(np.zeros((100, 64, 64, 3), np.uint8))
    assert not list(tmp_path.glob("o.mp4*"))


def test_the_first_track_with_sound_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = np.zeros((1, round(2 * RATE)), np.float32)
    path = encode(tmp_path / "x.mkv", "aac", [silent, beeps(2.0)[None], 0.5 * beeps(2.0)[None]])
    with caplog.at_level(logging.WARNING):
        sound = read_audio(path)
    assert level(sound.samples) == pytest.approx(0.1, rel=0.1)
    assert "track 1" in caplog.text and "3 sound tracks" in caplog.text
    assert level(read_audio(SoundTrack(path=path, track=2)).samples) == pytest.approx(0.05, rel=0.1)
    assert not read_audio(SoundTrack(path=path, track=0)).samples.any()
    with pytest.raises(InputError, match=r"track: 3: x\.mkv has 3 sound tracks: 0 \(aac"):
        read_audio(SoundTrack(path=path, track=3))


def test_the_video_carries_the_track_that_is_heard(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mkv", "aac", [np.zeros((1, 2 * RATE), np.float32), beeps(2.0)[None]])
    with VideoWriter(tmp_path / "o.mp4", 64, 64, 25, path) as video:
        video.write(np.zeros((50, 64, 64, 3), np.uint8))
    assert np.abs(read_audio(tmp_path / "o.mp4").samples).max() > 0.4


@pytest.mark.parametrize("balance", [1.0, 0.9])
def test_channels_that_cancel_are_heard(tmp_path: Path, balance: float, caplog: pytest.LogCaptureFixture) -> None:
    lead = np.zeros(3 * RATE, np.float32)  # longer than what is looked at
    tone = np.concatenate([lead, beeps()])
    path = encode(tmp_path / "x.wav", "pcm_s16le", [np.stack([tone * balance, -tone])])
    with caplog.at_level(logging.WARNING):
        sound = read_audio(path)
    assert np.abs(sound.samples).max() == pytest.approx(0.5, rel=0.1) and "cancel" in caplog.text
    assert sound.duration_s == pytest.approx(3 + SECONDS, abs=0.001)


@pytest.mark.parametrize("rate", [96000, 88200, 192000, 11025, 8000])
def test_a_video_has_a_rate_that_players_play(tmp_path: Path, rate: int) -> None:
    tone = np.sin(np.arange(rate) * 2 * np.pi * 300 / rate).astype(np.float32)
    path = tmp_path / "x.flac"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("flac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone[None] * 20000).astype(np.int16), "s16", "mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with VideoWriter(tmp_path / "o.mp4", 64, 64, 25, path) as video:
        video.write(np.zeros((25, 64, 64, 3), np.uint8))
    with av.open(str(tmp_path / "o.mp4")) as made:
        assert made.streams.audio[0].rate == (rate if rate <= 48000 else 48000)
    found = probe(tmp_path / "o.mp4")
    assert found.video_s is not None and found.audio_s is not None and abs(found.video_s - found.audio_s) <= FRAME_S


@pytest.mark.parametrize("frames", [20, 25, 60], ids=["sound is longer", "as long", "sound is shorter"])
def test_picture_and_sound_end_together(tmp_path: Path, frames: int) -> None:
    path = encode(tmp_path / "x.wav", "pcm_s16le", [beeps(1.0)[None]])
    with VideoWriter(tmp_path / "o.mp4", 64, 64, 25, path) as video:
        video.write(np.zeros((frames, 64, 64, 3), np.uint8))
    found = probe(tmp_path / "o.mp4")
    assert found.video_s is not None and found.audio_s is not None and abs(found.video_s - found.audio_s) <= FRAME_S


def test_pieces_are_the_whole_whatever_their_size(tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / "x.mp3").write_bytes(DAMAGES["two scratches"](whole["mp3"]))
    samples = read_audio(tmp_path / "x.mp3").samples
    with SoundReader(tmp_path / "x.mp3") as reader:
        parts = [reader.read(start, start + 3000) for start in range(0, len(samples), 3000)]
    assert np.array_equal(np.concatenate(parts)[: len(samples)], samples)
