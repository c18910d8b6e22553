"""Log-mel features, the same numbers whether the sound comes whole or in pieces.

Row r is the power spectrum centred on sample (r + 0.5) hop, on librosa's mel filters, as a natural
logarithm with a floor. Nothing looks at the whole sound (no loudness normalisation), and rows are computed
in blocks of one fixed size, so a stream's rows equal the file's bit for bit. Our own model's filters are
stored, since librosa takes a second to load what it computes them with. Non-goals: windows (windows.py).

Shapes: R rows, M mel bands.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import AudioConfig

Floats = NDArray[np.float32]

STORED = Path(__file__).parents[1] / "assets" / "audio"  # mel_RATE_FFT_BANDS.npy
BLOCK = 64  # rows computed at a time: one shape, so one order of additions
POWER_FLOOR = np.float32(1e-5)
SILENCE_LEVEL = float(np.log(POWER_FLOOR))


@lru_cache(maxsize=4)
def mel_filters(cfg: AudioConfig) -> Floats:
    """Weights (M, n_fft / 2 + 1) of the mel bands, librosa's bit for bit."""
    stored = STORED / f"mel_{cfg.sample_rate}_{cfg.n_fft}_{cfg.n_mels}.npy"
    if stored.is_file():
        return np.asarray(np.load(stored, allow_pickle=False), np.float32)
    import librosa

    return np.asarray(librosa.filters.mel(sr=cfg.sample_rate, n_fft=cfg.n_fft, n_mels=cfg.n_mels), np.float32)


@lru_cache(maxsize=4)
def _hann(n: int) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def silence_row(cfg: AudioConfig) -> Floats:
    """The feature row (M,) of digital silence."""
    return np.full(cfg.n_mels, SILENCE_LEVEL, np.float32)


SILENCE: Floats = silence_row(AudioConfig())


def _block(samples: Floats, cfg: AudioConfig) -> Floats:
    """(BLOCK, M) rows of exactly the samples BLOCK rows touch."""
    pieces = np.lib.stride_tricks.sliding_window_view(samples, cfg.n_fft)[:: cfg.hop]
    # librosa.stft's own arithmetic, without the seconds that its compiler takes to load
    power = np.abs(np.fft.rfft(pieces * _hann(cfg.n_fft)).astype(np.complex64)).T ** 2
    rows: Floats = np.log(np.maximum(mel_filters(cfg) @ power, POWER_FLOOR)).T.astype(np.float32)
    return rows


class StreamingLogMel:
    """Rows as their samples arrive; `finish` gives the last ones, with silence after the end."""

    def __init__(self, cfg: AudioConfig) -> None:
        self._cfg = cfg
        # the first row is centred half a hop in, so it starts n_fft/2 - hop/2 samples before the sound
        self._held = np.zeros(cfg.n_fft // 2 - cfg.hop // 2, np.float32)
        self._pushed = self._rows = 0

    @property
    def _block_samples(self) -> int:
        return self._cfg.n_fft + (BLOCK - 1) * self._cfg.hop

    def push(self, samples: Floats) -> Floats:
        """New rows (R, M) that whole blocks of the samples so far allow."""
        self._pushed += len(samples)
        self._held = np.concatenate([self._held, np.asarray(samples, np.float32)])
        rows = [np.zeros((0, self._cfg.n_mels), np.float32)]
        while len(self._held) >= self._block_samples:
            rows.append(_block(self._held[: self._block_samples], self._cfg))
            self._held = self._held[BLOCK * self._cfg.hop :]
        out = np.concatenate(rows)
        self._rows += len(out)
        return out

    def finish(self) -> Floats:
        """The remaining rows (R, M); in all there are ceil(samples / hop)."""
        total = -(-self._pushed // self._cfg.hop)
        rest = total - self._rows
        if rest <= 0:
            return np.zeros((0, self._cfg.n_mels), np.float32)
        blocks = -(-rest // BLOCK)
        pad = self._block_samples + (blocks - 1) * BLOCK * self._cfg.hop
        pushed = self._pushed
        rows = self.push(np.zeros(max(0, pad - len(self._held)), np.float32))[:rest]
        self._pushed = pushed
        return rows


def samples_of_rows(rows: int, cfg: AudioConfig) -> int:
    """Samples after which StreamingLogMel has given so many rows: they come in whole blocks."""
    blocks = -(-rows // BLOCK)
    return max(0, cfg.n_fft + (blocks * BLOCK - 1) * cfg.hop - (cfg.n_fft // 2 - cfg.hop // 2))


def log_mel(waveform: Floats, cfg: AudioConfig) -> Floats:
    """Rows (ceil(n / hop), M) of a waveform (n,) in -1..1 at cfg.sample_rate."""
    stream = StreamingLogMel(cfg)
    first = stream.push(waveform)
    return np.concatenate([first, stream.finish()])
