"""Faces that will hardly talk well are named, with the reason; those that will are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tm_core import talk
from tm_core.config import tiny
from tm_core.errors import InputError
from tm_core.face.confidence import STEADY, doubts, face_turn, mouth_doubts, mouth_unsteadiness
from tm_core.face.mesh import FaceMesh
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


def covered(picture: np.ndarray, landmarks: np.ndarray, by: str) -> np.ndarray:
    """The picture with a sheet of paper or four fingers before the mouth."""
    image = Image.fromarray(picture)
    pen, width = ImageDraw.Draw(image), float(landmarks[291, 0] - landmarks[61, 0])
    x, y = landmarks[[13, 14], :2].mean(0)
    if by == "paper":
        pen.rectangle((x - 0.8 * width, y - 0.45 * width, x + 0.8 * width, y + 0.8 * width), fill=(120, 190, 60))
    for i in range(4 if by == "fingers" else 0):
        left = x + (0.35 * i - 0.9) * width
        pen.ellipse((left, y - 1.2 * width, left + 0.3 * width, y + 1.2 * width), fill=(190, 140, 110), outline=(90, 50, 40), width=3)
    return np.asarray(image)


@pytest.mark.parametrize("name", ["demo", "third"])
def test_a_covered_mouth_is_named(assets: Path, mesh: FaceMesh, name: str) -> None:
    picture = open_image(assets / "portraits" / f"{name}.jpg")
    face = mesh.face(picture)
    assert mouth_doubts(face, picture, mesh) == () and mouth_unsteadiness(face, picture, mesh) < STEADY / 2
    for by in ("paper", "fingers"):
        hidden = covered(picture, face.landmarks, by)
        (found,) = mesh.faces(hidden)
        (said,) = mouth_doubts(found, hidden, mesh)
        assert "covered" in said and not doubts(found)  # the face itself looks sure
        with pytest.raises(InputError, match="a mouth that is covered"):
            talk.prepare_portrait(hidden, tiny(), strict=True)


def test_a_mouth_beyond_the_picture_is_named(demo: np.ndarray, mesh: FaceMesh) -> None:
    face = mesh.face(demo)
    cut = int(face.landmarks[17, 1]) - 1
    assert mouth_doubts(face, demo[:cut], mesh) == ("has a mouth that the picture's edge cuts off",)


def test_unsteadiness_does_not_depend_on_scale_or_turn(demo: np.ndarray, mesh: FaceMesh) -> None:
    hidden = covered(demo, mesh.face(demo).landmarks, "fingers")
    small = np.asarray(Image.fromarray(hidden).resize((demo.shape[1] * 2 // 3, demo.shape[0] * 2 // 3), Image.Resampling.LANCZOS))
    turned = np.asarray(Image.fromarray(hidden).rotate(12, Image.Resampling.BICUBIC))
    upright = mouth_unsteadiness(mesh.faces(hidden)[0], hidden, mesh)
    for picture in (small, turned):
        assert mouth_unsteadiness(mesh.faces(picture)[0], picture, mesh) == pytest.approx(upright, rel=0.5)
        assert mouth_doubts(mesh.faces(picture)[0], picture, mesh)


def test_strict_refuses_and_the_default_warns(assets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    picture = open_image(assets / "portraits" / "demo.jpg")
    monkeypatch.setattr("tm_core.face.confidence.SURE", 1.1)
    with pytest.raises(InputError, match=r"image: a face of .*hardly looks like a human face.*leave strict out"):
        talk.prepare_portrait(picture, tiny(), strict=True)
    assert "hardly looks" in talk.prepare_portrait(picture, tiny()).doubts[0] and "hardly looks" in caplog.text
