"""Log-mel: librosa's numbers, and the same ones from a stream."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest

from tm_core.audio.features import POWER_FLOOR, SILENCE, STORED, StreamingLogMel, log_mel, mel_filters
from tm_core.config import AudioConfig
from tm_core.media import read_audio

CFG = AudioConfig()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    path = Path(__file__).parents[2] / "tm_core" / "assets" / "speech" / "librivox_sense_and_sensibility_0870.wav"
    return read_audio(path).samples


def test_equals_one_librosa_call(speech: np.ndarray) -> None:
    rows = log_mel(speech, CFG)
    lead = CFG.n_fft // 2 - CFG.hop // 2
    padded = np.pad(speech, (lead, CFG.n_fft + CFG.hop))
    power = librosa.feature.melspectrogram(
        y=padded, sr=CFG.sample_rate, n_fft=CFG.n_fft, hop_length=CFG.hop, n_mels=CFG.n_mels, center=False)
    whole = np.log(np.maximum(power, POWER_FLOOR)).T[: len(rows)]
    assert np.abs(rows - whole).max() <= 1e-4


def test_the_stored_filters_are_librosas_bit_for_bit() -> None:
    assert [path.name for path in STORED.iterdir()] == [f"mel_{CFG.sample_rate}_{CFG.n_fft}_{CFG.n_mels}.npy"]
    assert np.array_equal(mel_filters(CFG), librosa.filters.mel(sr=CFG.sample_rate, n_fft=CFG.n_fft, n_mels=CFG.n_mels))


def test_filters_of_other_sizes_are_computed() -> None:
    other = AudioConfig(n_fft=512, n_mels=64)
    assert np.array_equal(mel_filters(other), librosa.filters.mel(sr=16000, n_fft=512, n_mels=64))


@pytest.mark.parametrize("push", [1, 7, 160, 997, 16000, 10**9], ids=lambda n: f"push{n}")
def test_stream_equals_file_exactly(speech: np.ndarray, push: int) -> None:
    sound = speech[: 16000 if push < 100 else None]
    stream, rows = StreamingLogMel(CFG), []
    for start in range(0, len(sound), push):
        rows += [stream.push(sound[start : start + push]), stream.push(sound[:0])]
    rows.append(stream.finish())
    assert np.array_equal(np.concatenate(rows), log_mel(sound, CFG))


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 4800, 10240, 10241])
def test_one_row_every_hop(samples: int) -> None:
    rows = log_mel(np.full(samples, 0.1, np.float32), CFG)
    assert rows.shape == (-(-samples // CFG.hop), CFG.n_mels)


def test_digital_silence_is_the_silence_row() -> None:
    assert np.array_equal(log_mel(np.zeros(1600, np.float32), CFG), np.tile(SILENCE, (10, 1)))


def test_a_row_hears_only_its_own_samples(speech: np.ndarray) -> None:
    row = 100
    changed = speech.copy()
    changed[row * CFG.hop + CFG.hop // 2 + CFG.n_fft // 2 :] = 0.5
    assert np.array_equal(log_mel(changed, CFG)[: row + 1], log_mel(speech, CFG)[: row + 1])
    assert not np.array_equal(log_mel(changed, CFG)[row + 2], log_mel(speech, CFG)[row + 2])
