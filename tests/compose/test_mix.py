"""Sounds mixed: level, place, time; read at full rate and never clipped."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from tm_core.compose.mix import BLOCK, MIX_RATE, Track, distinct, mix, write_mix
from tm_core.errors import InputError
from tm_core.media.audio_io import Waveform


def tone(seconds: float = 0.5, level: float = 0.25, rate: int = 16000, pitch: float = 440.0) -> Waveform:
    t = np.arange(round(seconds * rate)) / rate
    return Waveform(samples=(level * np.sin(2 * np.pi * pitch * t)).astype(np.float32), sample_rate=rate)


def mixed(tracks: list[Track], seconds: float) -> np.ndarray:
    """(2, n)."""
    return np.concatenate(list(mix(tracks, seconds)), 1)


def level_of(samples: np.ndarray) -> float:
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize(("pan", "left", "right"), [(0.0, 1.0, 1.0), (-1.0, 2**0.5, 0.0), (1.0, 0.0, 2**0.5)])
def test_pan_keeps_the_power(pan: float, left: float, right: float) -> None:
    made = mixed([Track(sound=tone(), pan=pan)], 0.5)[:, 2000:-2000]
    plain = level_of(tone(rate=MIX_RATE).samples[2000:-2000])
    assert [level_of(side) / plain for side in made] == pytest.approx([left, right], abs=0.01)


def test_gain_and_time() -> None:
    made = mixed([Track(sound=tone(), gain_db=-20.0, start_s=0.25)], 1.0)
    assert made.shape == (2, MIX_RATE) and not made[:, : MIX_RATE // 4 - 200].any() and not made[:, -MIX_RATE // 5 :].any()
    assert level_of(made[0, 14000:34000]) == pytest.approx(0.1 * level_of(tone().samples), rel=0.02)


def test_a_sum_that_would_clip_is_turned_down_as_a_whole(caplog: pytest.LogCaptureFixture) -> None:
    made = mixed([Track(sound=tone(level=0.9)), Track(sound=tone(level=0.9))], 0.5)
    assert np.abs(made).max() == pytest.approx(1.0, abs=1e-3) and "turned down by 5" in caplog.text


def test_a_sound_that_several_share_counts_once() -> None:
    one, same = tone(), tone()
    assert [t.sound is one for t in distinct([Track(sound=one), Track(sound=same), Track(sound=one)])] == [True, False]
    assert len(distinct([Track(sound=one), Track(sound=one, pan=0.5), Track(sound=one, start_s=1.0)])) == 3
    assert len(distinct([Track(sound=Path("a.wav")), Track(sound=Path("a.wav")), Track(sound=Path("b.wav"))])) == 2
    assert np.array_equal(mixed([Track(sound=one)] * 4, 0.5), mixed([Track(sound=one)], 0.5))


def test_blocks_are_the_whole_sound(tmp_path: Path) -> None:
    """Over many blocks, begun in the middle of one: every sample in its place, from samples and from a file."""
    sound, start = tone(seconds=5.0, rate=MIX_RATE), 1.7
    wanted = np.zeros(round(7.5 * MIX_RATE), np.float32)
    wanted[round(start * MIX_RATE) :][: len(sound.samples)] = sound.samples
    made = list(mix([Track(sound=sound, start_s=start)], 7.5))
    assert len(made) > 3 and max(block.shape[1] for block in made) == BLOCK
    assert np.abs(np.concatenate(made, 1) - wanted).max() <= 1e-6
    path = write_mix([Track(sound=sound)], 5.0, tmp_path / "a.wav")
    assert np.abs(mixed([Track(sound=path, start_s=start)], 7.5) - wanted).max() <= 2**-15


def test_memory_does_not_grow_with_the_sound(tmp_path: Path) -> None:
    path = write_mix([Track(sound=tone(seconds=60.0))], 60.0, tmp_path / "a.wav")
    tracemalloc.start()
    for _ in mix([Track(sound=path), Track(sound=path, pan=0.5)], 60.0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * MIX_RATE * 2 * 4 / 4  # of one track of 23 MB


def test_files_of_any_kind_come_in_as_loud_as_they_are(tmp_path: Path) -> None:
    """A mono file at 22050 Hz, written and read back through a mix of its own."""
    path = write_mix([Track(sound=tone(seconds=0.4, rate=22050))], 0.4, tmp_path / "a.wav")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels, round(float(stream.duration * stream.time_base), 3)) == (MIX_RATE, 2, 0.4)
    again = mixed([Track(sound=path)], 0.4)
    assert level_of(again[0, 3000:-3000]) == pytest.approx(level_of(tone().samples), rel=0.02)


def test_what_cannot_be_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pan: 1\.5"):
        Track(sound=tone(), pan=1.5)
    with pytest.raises(InputError, match=r"start_s: -1"):
        Track(sound=tone(), start_s=-1)
    with pytest.raises(InputError, match="no such file"):
        mixed([Track(sound=tmp_path / "none.wav")], 1.0)
    with pytest.raises(InputError, match="cannot be kept there"):
        write_mix([Track(sound=tone())], 0.5, tmp_path / "nowhere" / "a.wav")
