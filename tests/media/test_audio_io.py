"""Sound files of every kind become mono 16 kHz of the right length, and what is not sound says so."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.media import VideoWriter, Waveform, read_audio, resample

SPEECH = Path(__file__).parents[2] / "tm_core" / "assets" / "speech" / "librivox_sense_and_sensibility_0870.wav"


def encode(path: Path, codec: str, rate: int, channels: int, seconds: float) -> Path:
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(rate * seconds)) / rate)
    data = np.tile(tone, (channels, 1)).astype(np.float32)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        fmt = stream.codec_context.format.name
        resampler = av.AudioResampler(fmt, stream.layout, rate)
        frame = av.AudioFrame.from_ndarray(data, "fltp", stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [("a.wav", "pcm_s16le", 8000, 1), ("b.wav", "pcm_s24le", 48000, 2), ("c.flac", "flac", 44100, 2), ("d.mp3", "libmp3lame", 44100, 2),
     ("e.m4a", "aac", 48000, 2), ("f.ogg", "libopus", 48000, 2), ("g \u00e4 \u65e5.wav", "pcm_s16le", 16000, 1)],
    ids=["8 kHz mono", "48 kHz stereo 24 bit", "flac", "mp3", "m4a", "ogg", "spaces and letters"],
)
@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_any_file_to_mono_16k(tmp_path: Path, name: str, codec: str, rate: int, channels: int, seconds: float) -> None:
    sound = read_audio(encode(tmp_path / name, codec, rate, channels, seconds))
    assert sound.sample_rate == 16000
    assert sound.samples.dtype == np.float32
    assert sound.duration_s == pytest.approx(seconds, abs=0.005)
    middle = sound.samples[len(sound.samples) // 4 : len(sound.samples) // 4 * 3]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.15)


def test_wav_length_is_exact() -> None:
    with av.open(str(SPEECH)) as f:
        assert len(read_audio(SPEECH).samples) == sum(frame.samples for frame in f.decode(audio=0))


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    path, sound = tmp_path / "v.mp4", read_audio(SPEECH)
    with VideoWriter(path, 64, 64, 25, sound) as out:
        out.write(np.zeros((177, 64, 64, 3), np.uint8))
    assert read_audio(path).duration_s == pytest.approx(sound.duration_s, abs=0.005)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut short", "picture only"])
def test_what_is_no_sound_says_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is not sound " * 100)
    elif kind == "cut short":
        path.write_bytes(SPEECH.read_bytes()[:44])
    elif kind == "picture only":
        path = tmp_path / "x.mp4"
        with VideoWriter(path, 64, 64, 25) as out:
            out.write(np.zeros((5, 64, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"^audio: ") as caught:
        read_audio(path)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_a_stereo_file_is_as_loud_as_a_mono_one(tmp_path: Path) -> None:
    levels = [np.abs(read_audio(encode(tmp_path / f"{n}.wav", "pcm_s16le", 16000, n, 1.0)).samples).max() for n in (1, 2)]
    assert levels[0] == pytest.approx(levels[1], rel=0.01) and levels[0] == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_resample_keeps_the_duration(rate: int) -> None:
    stereo = np.random.default_rng(0).normal(size=(2, rate)).astype(np.float32) * 0.1
    assert isinstance(resample(stereo, rate), Waveform)
    assert resample(stereo, rate).duration_s == pytest.approx(1.0, abs=0.002)
