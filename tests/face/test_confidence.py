"""Faces that will hardly talk well are named, with the reason; those that will are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tm_core import talk
from tm_core.config import tiny
from tm_core.errors import InputError
from tm_core.face.confidence import doubts, face_turn
from tm_core.face.networks import Face
from tm_core.media.image_io import open_image

FRONT = np.zeros((468, 3), np.float32)
FRONT[[234, 454, 10, 152], :2] = (0, 50), (100, 50), (50, 0), (50, 120)


def turned(degrees: float, axis: int, score: float = 1.0) -> Face:
    """A face of which only the ends are known, turned about the vertical (1) or horizontal (0) axis."""
    a = np.radians(degrees)
    i, j = ((0, 2), (1, 2))[1 - axis]
    points = FRONT.copy()
    points[:, i], points[:, j] = FRONT[:, i] * np.cos(a) - FRONT[:, j] * np.sin(a), FRONT[:, i] * np.sin(a) + FRONT[:, j] * np.cos(a)
    return Face(landmarks=points, score=score)


@pytest.mark.parametrize("degrees", [-70, -20, 0, 35, 60])
def test_turns_are_measured(degrees: float) -> None:
    assert face_turn(turned(degrees, 1).landmarks)[0] == pytest.approx(degrees)
    assert face_turn(turned(degrees, 0).landmarks)[1] == pytest.approx(degrees)


@pytest.mark.parametrize(("face", "words"), [
    (turned(-62, 1), "turned about 62 degrees to the side"), (turned(45, 0), "about 45 degrees down"), (turned(-45, 0), "45 degrees up"),
    (turned(0, 1, 0.7), "hardly looks like a human face")])
def test_the_reason_is_said(face: Face, words: str) -> None:
    (said,) = doubts(face)
    assert words in said


@pytest.mark.parametrize("name", ["demo", "second", "third", "fourth"])
def test_bundled_portraits_raise_no_doubt(assets: Path, name: str) -> None:
    assert talk.prepare_portrait(open_image(assets / "portraits" / f"{name}.jpg"), tiny(), strict=True).doubts == ()


def test_strict_refuses_and_the_default_warns(assets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    picture = open_image(assets / "portraits" / "demo.jpg")
    monkeypatch.setattr("tm_core.face.confidence.SURE", 1.1)
    with pytest.raises(InputError, match=r"image: a face of .*hardly looks like a human face.*leave strict out"):
        talk.prepare_portrait(picture, tiny(), strict=True)
    assert "hardly looks" in talk.prepare_portrait(picture, tiny()).doubts[0] and "hardly looks" in caplog.text
