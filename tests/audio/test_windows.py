"""Audio windows: by absolute index, so streamed equals whole, and no more future than the look-ahead."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tm_core.audio.features import SILENCE
from tm_core.audio.windows import rows_needed, window, window_rows, windows
from tm_core.config import AudioConfig
from tm_core.timeline import Timeline

CFG = AudioConfig()
TIMELINE = Timeline(fps=Fraction(25))
FEATURES = np.random.default_rng(0).normal(size=(400, CFG.n_mels)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_streamed_equals_whole_exactly(chunk: int) -> None:
    whole = windows(FEATURES, range(30), TIMELINE, CFG)
    parts = [windows(FEATURES, range(i, min(i + chunk, 30)), TIMELINE, CFG) for i in range(0, 30, chunk)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_five_latents_centred_on_the_latent() -> None:
    rows = window_rows(10, TIMELINE, CFG)
    own = TIMELINE.frames_of_latent(10)
    assert len(rows) == 80
    assert (own.start * 4 - rows.start, rows.stop - own.stop * 4) == (32, 32)


def test_outside_the_sound_is_silence() -> None:
    assert np.array_equal(window(FEATURES, 0, TIMELINE, CFG)[:44], np.tile(SILENCE, (44, 1)))
    assert np.array_equal(window(FEATURES, 1000, TIMELINE, CFG), np.tile(SILENCE, (80, 1)))


@pytest.mark.parametrize("latent", [0, 1, 5, 11])
def test_future_beyond_the_look_ahead_changes_nothing(latent: int) -> None:
    known = rows_needed(range(latent, latent + 1), TIMELINE, CFG)
    assert known == 4 * (TIMELINE.frames_of_latent(latent).stop + TIMELINE.lookahead_frames(CFG.window_latents))
    other = FEATURES.copy()
    other[known:] += 1
    assert np.array_equal(window(other, latent, TIMELINE, CFG), window(FEATURES, latent, TIMELINE, CFG))
    other[known - 1] += 1
    assert not np.array_equal(window(other, latent, TIMELINE, CFG), window(FEATURES, latent, TIMELINE, CFG))


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24), Fraction(30), Fraction(30000, 1001)], ids=str)
def test_every_rate_gives_windows_of_one_length(fps: Fraction) -> None:
    lengths = {len(window_rows(i, Timeline(fps=fps), CFG)) for i in range(200)}
    assert len(lengths) == 1
