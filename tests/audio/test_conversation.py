"""A mixed sound apart for every speaker: silence in others' turns, own turns untouched, no clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tm_core.audio.conversation import FADE_S, own_spans, split_conversation
from tm_core.audio.turns import parse_timeline
from tm_core.errors import InputError
from tm_core.media import read_audio

RATE = 16000
SPEECH = Path(__file__).parents[2] / "tm_core" / "assets" / "speech" / "librivox_sense_and_sensibility_0870.wav"


@pytest.fixture(scope="module")
def mixed() -> np.ndarray:
    return read_audio(SPEECH).samples[: 6 * RATE]


def seconds(samples: np.ndarray, start: float, end: float) -> np.ndarray:
    return samples[..., round(start * RATE) : round(end * RATE)]


def test_nothing_of_another_turn_is_left(mixed: np.ndarray) -> None:
    schedule = parse_timeline("0-2 A, 2-3.5 B, 4-6 A")
    a, b = split_conversation(mixed, RATE, schedule, ["A", "B"])
    assert not seconds(a, 2.0, 3.5).any() and not seconds(b, 0, 2.0).any() and not seconds(b, 3.55, 6).any()
    assert np.array_equal(seconds(a, 0, 2 - FADE_S), seconds(mixed, 0, 2 - FADE_S))
    assert np.array_equal(seconds(a, 4, 6), seconds(mixed, 4, 6))
    assert np.array_equal(seconds(b, 2 + FADE_S, 3.5), seconds(mixed, 2 + FADE_S, 3.5))


def test_a_turn_reaches_into_a_pause_but_not_into_a_turn() -> None:
    schedule = parse_timeline("1-2 A, 2.02-3 B, 4-5 A")
    assert own_spans(schedule, "A", 6.0, 0.05) == ((0.95, 2.02), (3.95, 5.05))
    assert own_spans(schedule, "B", 6.0, 0.05) == ((2.0, 3.05),)


def test_both_hear_an_overlap(mixed: np.ndarray) -> None:
    a, b = split_conversation(mixed, RATE, parse_timeline("0-3 A, 2- B"), ["A", "B"])
    both = seconds(mixed, 2.1, 2.9)
    assert np.array_equal(seconds(a, 2.1, 2.9), both) and np.array_equal(seconds(b, 2.1, 2.9), both)


def test_edges_do_not_click() -> None:
    flat = np.ones((2, RATE), np.float32)
    (a,) = split_conversation(flat, RATE, parse_timeline("0.2-0.5 A, 0.8-0.803 A"), ["A"], margin_s=0.0)
    assert a.shape == (2, RATE) and a.dtype == np.float32
    assert np.abs(np.diff(a[:, : round(0.7 * RATE)])).max() < 0.02
    assert a[0].max() == 1.0 and a[0, 0] == 0.0


def test_channels_and_rate_are_kept() -> None:
    stereo = np.random.default_rng(0).standard_normal((2, 48000)).astype(np.float32)
    (a,) = split_conversation(stereo, 48000, parse_timeline("0- A"), ["A"])
    assert np.array_equal(a, stereo)


def test_a_turn_after_the_end_is_an_error(mixed: np.ndarray) -> None:
    with pytest.raises(InputError, match="7- A: begins when the sound is over"):
        split_conversation(mixed, RATE, parse_timeline("0-1 B, 7- A"), ["B", "A"])
