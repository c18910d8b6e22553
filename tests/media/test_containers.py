"""One talking video in every wrapping that ordinary footage comes in: pictures and sound are the reference's, on one clock."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from parity.containers import Wrapping, wrap
from tm_core.errors import InputError
from tm_core.media import SoundTrack, VideoReader, probe, read_audio

SECONDS, RATE = 2.0, 16000
TURNS, STARTS = (0, 90, 180, 270), (0.0, 0.35, -0.2)


@dataclass(frozen=True)
class Clip:
    """Frames (T, H, W, 3) whose left edge counts them in bits, and a sound with a click at every fifth frame."""

    frames: np.ndarray
    samples: np.ndarray


@pytest.fixture(scope="module")
def clip() -> Clip:
    count = round(SECONDS * 25)
    frames = np.full((count, 96, 64, 3), 128, np.uint8)
    for number in range(count):
        for bit in range(6):
            frames[number, bit * 16 : bit * 16 + 16, :32] = 235 if number >> bit & 1 else 20
    samples = np.zeros(round(SECONDS * RATE), np.float32)
    for number in range(5, count, 5):
        samples[number * 640 : number * 640 + 80] = 0.8 * np.sin(np.arange(80) * 2.0)
    return Clip(frames=frames, samples=samples)


def number_of(picture: np.ndarray) -> int:
    return sum(int(picture[bit * 16 + 8, 16].mean() > 128) << bit for bit in range(6))


def clicks(samples: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return loud[np.diff(loud, prepend=-9999) > 600] / RATE


ALL = [
    Wrapping(container=container, turn=turn, sound_start_s=start, uneven=uneven)
    for container, turn, start, uneven in itertools.product(("mp4", "mov", "mkv", "webm", "ts", "avi"), TURNS, STARTS, (False, True))
    if (turn == 0 or container in ("mp4", "mov")) and not (container == "avi" and (uneven or start))  # that avi cannot say
]


@pytest.mark.parametrize("how", ALL, ids=str)
def test_pictures_and_sound_are_the_references(tmp_path: Path, clip: Clip, how: Wrapping) -> None:
    path = wrap(tmp_path / f"x.{how.container}", clip.frames, clip.samples, how)
    with VideoReader(path) as reader:
        start_s, fps = reader.start_s, reader.fps
        numbers = [number_of(picture) for picture in reader.pictures()]
    assert fps == 25
    shown = [max(k for k in how.kept(len(clip.frames)) if k <= number) for number in range(len(clip.frames))]
    assert abs(len(numbers) - len(shown)) <= 1
    assert numbers[: len(shown) - 1] == shown[: len(numbers)][: len(shown) - 1]
    heard = clicks(read_audio(path, origin=start_s).samples)
    expected = clicks(clip.samples) + how.sound_start_s
    expected = expected[expected > -0.001]
    assert len(heard) == len(expected) and np.abs(heard - expected).max() < 0.02


def test_a_track_of_many(tmp_path: Path, clip: Clip) -> None:
    how = Wrapping(container="mkv", silent_tracks=1)
    path = wrap(tmp_path / "x.mkv", clip.frames, clip.samples, how)
    assert len(clicks(read_audio(path, origin=0.0).samples)) == 9
    assert not len(clicks(read_audio(SoundTrack(path=path, track=0), origin=0.0).samples))


@pytest.mark.parametrize("fps", [24, 30, 50, 60])
def test_other_rates_are_kept(tmp_path: Path, clip: Clip, fps: int) -> None:
    path = wrap(tmp_path / "x.mp4", clip.frames, clip.samples, Wrapping(container="mp4", fps=fps))
    with VideoReader(path) as reader:
        assert reader.fps == fps and len(list(reader.pictures())) == len(clip.frames)
    with VideoReader(path, Fraction(25)) as reader:
        assert abs(len(list(reader)) - len(clip.frames) * 25 / fps) <= 1


def test_probe_measures_where_the_container_says_nothing(tmp_path: Path, clip: Clip) -> None:
    found = probe(wrap(tmp_path / "x.mkv", clip.frames, clip.samples, Wrapping(container="mkv")))
    assert found.video_s == pytest.approx(SECONDS, abs=0.05) and found.audio_s == pytest.approx(SECONDS, abs=0.15)  # frames of 64 ms
    assert (found.frames, found.fps, found.width, found.height) == (50, 25, 64, 96)


def test_the_cover_of_a_song_is_no_video(tmp_path: Path, clip: Clip) -> None:
    how = replace(Wrapping(container="mp4"), pictures=False)
    with pytest.raises(InputError, match="has no picture track"):
        VideoReader(wrap(tmp_path / "x.mp4", clip.frames, clip.samples, how))
