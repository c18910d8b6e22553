"""AUDIO to a wave file that the engine reads, and back; nothing is left behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tm_core.media.audio_io import Waveform, read_audio


@pytest.fixture(scope="module")
def sound(pack: Callable[[str], ModuleType]) -> ModuleType:
    return pack("nodes.host.sound")


def audio(channels: int = 1, samples: int = 16000, rate: int = 16000) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {"waveform": torch.rand(1, channels, samples, generator=generator) - 0.5, "sample_rate": rate}


@pytest.mark.parametrize(
    ("channels", "samples", "rate"), [(1, 1, 16000), (1, 16001, 16000), (2, 70000, 44100), (2, 131072, 48000)], ids=str)
def test_every_sample_comes_back(sound: ModuleType, tmp_path: Path, channels: int, samples: int, rate: int) -> None:
    given = audio(channels, samples, rate)
    path = sound.write_wave(*sound.waveform_of(given), tmp_path)
    back = sound.audio_of(path)
    assert back["sample_rate"] == rate and torch.equal(back["waveform"], given["waveform"])


def test_the_engine_hears_the_same(sound: ModuleType, tmp_path: Path) -> None:
    given = audio(samples=16000)
    heard = read_audio(sound.write_wave(*sound.waveform_of(given), tmp_path))
    assert heard.sample_rate == 16000
    assert np.abs(heard.samples - given["waveform"].flatten().numpy()).max() < 1e-6


def test_surround_is_mixed(sound: ModuleType) -> None:
    channels, rate = sound.waveform_of(audio(channels=6, samples=100))
    assert channels.shape == (1, 100) and rate == 16000


def test_half_precision_and_bare_waveforms(sound: ModuleType) -> None:
    channels, _ = sound.waveform_of({"waveform": torch.zeros(2, 50, dtype=torch.float16), "sample_rate": 16000})
    assert channels.shape == (2, 50) and channels.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"waveform": torch.zeros(1, 1, 0)}, "holds no sound"),
        ({"waveform": torch.zeros(1, 0, 10)}, "holds no sound"),
        ({"waveform": torch.zeros(2, 1, 10)}, "batch of 2"),
        ({"waveform": torch.full((1, 1, 10), float("nan"))}, "finite"),
        ({"sample_rate": 0}, "0 Hz"),
    ],
    ids=["empty", "no channel", "batch", "nan", "no rate"],
)
def test_what_is_no_sound_is_refused(sound: ModuleType, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sound.waveform_of({**audio(), **change})


def test_a_video_without_sound_is_refused(sound: ModuleType) -> None:
    with pytest.raises(ValueError, match="audio: nothing: there is no sound; connect"):
        sound.waveform_of(None)


def test_a_folder_that_is_not_there_is_one_line(sound: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: the sound cannot be kept there"):
        sound.write_wave(*sound.waveform_of(audio()), tmp_path / "missing")


def test_a_full_disk_leaves_nothing(sound: ModuleType, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(ValueError, match=r"audio: .*free some disk space"):
            sound.write_wave(*sound.waveform_of(audio(samples=1 << 20)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_the_file_goes_with_its_owner(sound: ModuleType, tmp_path: Path) -> None:
    class Owner:
        pass

    path, owner = sound.write_wave(*sound.waveform_of(audio()), tmp_path), Owner()
    sound.remove_with(owner, path)
    assert path.is_file()
    del owner
    gc.collect()
    assert not path.exists()


def test_a_waveform_of_the_engine_is_audio_too(sound: ModuleType) -> None:
    back = sound.audio_of(Waveform(samples=np.linspace(-1, 1, 10, dtype=np.float32), sample_rate=16000))
    assert back["waveform"].shape == (1, 1, 10) and back["sample_rate"] == 16000


def test_a_sound_that_went_away_is_one_line(sound: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="went away; free the node cache"):
        sound.audio_of(tmp_path / "gone.wav")
