"""Blinks, glances and sway: functions of seed and frame number, in the measure of people."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tm_core.face.life import FaceLife

MINUTE = list(range(25 * 60))


@pytest.fixture(params=[0, 3, 12345])
def life(request: pytest.FixtureRequest) -> FaceLife:
    return FaceLife(fps=Fraction(25), seed=request.param)


def test_the_same_seed_gives_the_same_life_in_any_order(life: FaceLife) -> None:
    other = replace(life, seed=life.seed + 1)
    for what in (FaceLife.closure, FaceLife.glance):
        forward = [what(life, i) for i in MINUTE]
        assert forward == [what(life, i) for i in MINUTE[::-1]][::-1] and forward != [what(other, i) for i in MINUTE]
    numbers = np.array(MINUTE)
    said = np.linspace(0, 1, len(numbers))
    assert np.array_equal(life.sway(numbers, said)[600:], life.sway(numbers[600:], said[600:]))


def test_eyes_close_as_often_and_as_long_as_peoples_do(life: FaceLife) -> None:
    closed = np.array([life.closure(i) for i in MINUTE])
    shut = closed > 0
    starts = np.flatnonzero(shut[1:] & ~shut[:-1]) + 1
    assert 12 <= len(starts) <= 31 and np.diff(starts).min() >= 50 and np.diff(starts).max() <= 126
    assert closed.max() > 0.9 and 4 <= shut.sum() / len(starts) <= 8


def test_eyes_look_ahead_most_of_the_time_and_jump(life: FaceLife) -> None:
    glances = np.array([life.glance(i) for i in MINUTE])
    jumps = (np.diff(glances, axis=0) != 0).any(1)
    assert 8 <= jumps.sum() <= 40 and np.abs(glances).max() < 0.1
    assert np.median(np.abs(glances[:, 0])) < 0.05


def test_covered_eyes_do_neither(life: FaceLife) -> None:
    still = replace(life, eyes=False)
    assert not any(still.closure(i) or any(still.glance(i)) for i in MINUTE)


def test_a_head_sways_from_rest_and_never_stands_still(life: FaceLife) -> None:
    numbers = np.array(MINUTE)
    sway = life.sway(numbers, np.zeros(len(numbers)))
    assert not sway[0].any()
    for first in range(25, len(numbers) - 25):
        assert np.ptp(sway[first : first + 25], axis=0).max() > 2e-4  # a fifteenth of a pixel where a face is 300 wide
    assert np.abs(np.diff(sway, axis=0)).max() < 0.002  # no jump
