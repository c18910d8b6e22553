"""The picture of a schedule: rows, filled where a speaker speaks, on one axis of seconds."""

from __future__ import annotations

import numpy as np
import pytest

from tm_core.audio.turns import Span
from tm_core.audio.turns_picture import COLOURS, QUIET, Row, draw_turns
from tm_core.errors import InputError

RATE = 8000


def row(name: str, *spans: Span, seconds: float = 10.0) -> Row:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)
    return Row(name=name, samples=noise, sample_rate=RATE, spans=spans)


def columns(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((picture == np.array(colour, np.uint8)).all(2).any(0))


def test_filled_where_they_speak() -> None:
    picture = draw_turns([row("A", (0.0, 5.0)), row("B", (5.0, 7.5), (9.0, float("inf")))], width=1000)
    assert picture.shape[1:] == (1000, 3) and picture.dtype == np.uint8
    a, b, quiet = columns(picture, COLOURS[0]), columns(picture, COLOURS[1]), columns(picture, QUIET)
    left, right = a.min(), b.max()
    middle = left + (right - left) * 0.5
    assert abs(a.max() - middle) <= 3 and abs(b.min() - middle) <= 3 and quiet.min() <= left + 3
    gap = left + (right - left) * np.array([0.75, 0.9])
    assert not ((b > gap[0] + 3) & (b < gap[1] - 3)).any() and (b > gap[1] + 5).any()


def test_rows_of_several_lengths_share_the_axis() -> None:
    picture = draw_turns([row("A", (0.0, 10.0)), row("B", (0.0, 5.0), seconds=5.0)])
    long, short = columns(picture, COLOURS[0]), columns(picture, COLOURS[1])
    assert abs(np.ptp(short) * 2 - np.ptp(long)) <= 6


def test_taller_with_every_row_and_names_make_room() -> None:
    heights = [draw_turns([row(str(i)) for i in range(n)]).shape[0] for n in (1, 2, 6)]
    assert heights[1] - heights[0] == (heights[2] - heights[1]) / 4 > 0
    short, long = (columns(draw_turns([row(name, (0.0, 9.0))]), COLOURS[0]).min() for name in ("A", "Somebody with a name"))
    assert long > short + 40
    assert draw_turns([row("x" * 400, (0.0, 9.0))]).shape[1] == 1024


def test_a_sound_of_a_moment_and_one_of_hours() -> None:
    for seconds in (0.04, 7200.0):
        tiny = Row(name="A", samples=np.ones(round(seconds * 100), np.float32), sample_rate=100, spans=((0.0, seconds),))
        assert columns(draw_turns([tiny]), COLOURS[0]).size > 500


def test_nobody_is_an_error() -> None:
    with pytest.raises(InputError, match="speakers"):
        draw_turns([])
    with pytest.raises(InputError, match="width"):
        draw_turns([row("A")], width=100)
