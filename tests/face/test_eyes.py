"""Lids that close and irises that turn, where the eyes are and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tm_core import talk
from tm_core.face.eyes import CREASE, LOWER, UPPER, close_lids, eyes_covered, turn_eyes
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import PortraitCrop, crop_portrait, cut_portrait
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.weights.loading import load_model


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


@pytest.fixture(scope="module", params=["second", "third", "fourth"])
def portrait(mesh: FaceMesh, assets: Path, request: pytest.FixtureRequest) -> PortraitCrop:
    return crop_portrait(open_image(assets / "portraits" / f"{request.param}.jpg"), 256, mesh)


def test_skin_comes_down_over_the_eye_and_nothing_else_changes(portrait: PortraitCrop) -> None:
    """The eye takes on the look of the lid above it; pixels away from the eyes stay."""
    frame, points = portrait.image, portrait.landmarks
    shut = close_lids(frame, points, 1.0)
    for upper, lower, crease in zip(UPPER, LOWER, CREASE, strict=True):
        x, y = points[list(upper[2:7]) + list(lower[2:7]), :2].mean(0).round().astype(int)
        lid_x, lid_y = ((points[list(upper[2:7]), :2] + points[list(crease[2:7]), :2]) / 2).mean(0).round().astype(int)
        lid = frame[lid_y - 1 : lid_y + 2, lid_x - 5 : lid_x + 6].astype(float).mean((0, 1))
        was, now = (picture[y - 1 : y + 2, x - 5 : x + 6].astype(float) for picture in (frame, shut))
        assert np.abs(now.mean((0, 1)) - lid).mean() < np.abs(was.mean((0, 1)) - lid).mean() or now.std() < was.std()
        assert np.abs(now - was).mean() > 5
    rows, columns = np.nonzero((shut != frame).any(2))
    eyes = points[[i for eye in (*UPPER, *LOWER) for i in eye], :2]
    assert rows.min() > eyes[:, 1].min() - 0.12 * 256 and rows.max() < eyes[:, 1].max() + 4 and (shut != frame).any(2).mean() < 0.05
    assert columns.min() > eyes[:, 0].min() - 4 and columns.max() < eyes[:, 0].max() + 4


def test_open_lids_are_the_frame_itself(portrait: PortraitCrop) -> None:
    assert np.array_equal(close_lids(portrait.image, portrait.landmarks, 0.0), portrait.image)


def test_eyes_turn_within_their_lids(portrait: PortraitCrop) -> None:
    """The dark of the iris goes where the eyes look; the lids and everything else stay."""
    frame, points = portrait.image, portrait.landmarks

    def darkest(picture: np.ndarray, eye: int) -> float:
        curve = points[[*UPPER[eye][2:7], *LOWER[eye][2:7]], :2]
        (x0, y0), (x1, y1) = np.floor(curve.min(0)).astype(int), np.ceil(curve.max(0)).astype(int)
        dark = 255.0 - picture[y0:y1, x0:x1].astype(float).mean(2)
        weight = np.clip(dark - np.percentile(dark, 60), 0, None)
        return float((weight.sum(0) * np.arange(x1 - x0)).sum() / weight.sum())

    right = turn_eyes(frame, points, (0.08, 0.0))
    for eye in (0, 1):
        assert darkest(right, eye) > darkest(frame, eye)
        one = turn_eyes(frame, points, (0.08, 0.0), [eye])
        assert np.array_equal(turn_eyes(one, points, (0.08, 0.0), [1 - eye]), right) and not np.array_equal(one, right)
    rows, columns = np.nonzero((right != frame).any(2))
    eyes = points[[i for eye in (*UPPER, *LOWER) for i in eye], :2]
    assert rows.min() >= eyes[:, 1].min() - 1 and rows.max() <= eyes[:, 1].max() + 1
    assert columns.min() >= eyes[:, 0].min() - 1 and columns.max() <= eyes[:, 0].max() + 1
    assert turn_eyes(frame, points, (0.0, 0.0)) is frame


BRIM, GLASSES = "brim", "glasses"
CLOTHS = {"black": (15, 15, 18), "navy": (25, 40, 110), "grey": (120, 120, 120), "red": (150, 20, 25)}


def covered(picture: np.ndarray, points: np.ndarray, what: str, colour: tuple[int, int, int]) -> np.ndarray:
    """A portrait with a brim down to the lower lids, or with glasses of one colour."""
    drawn = Image.fromarray(picture)
    pen, height = ImageDraw.Draw(drawn), float(np.ptp(points[:, 1]))
    upper, lower = points[[159, 386], 1].mean(), points[[145, 374], 1].mean()
    if what == BRIM:
        pen.rectangle((0, points[[105, 334], 1].mean() - 0.2 * height, drawn.width, lower + 0.02 * height), fill=colour)
    else:
        for corners in ((33, 133), (263, 362)):
            left, right = sorted(points[list(corners), 0])
            pen.ellipse((left - 0.05 * height, upper - 0.09 * height, right + 0.05 * height, lower + 0.1 * height), fill=colour)
    return np.asarray(drawn)


@pytest.mark.parametrize(("what", "colour"), [(BRIM, "black"), (BRIM, "navy"), (BRIM, "grey"), *((GLASSES, c) for c in CLOTHS)])
@pytest.mark.parametrize("name", ["demo", "third"])
def test_a_brim_and_glasses_cover_the_eyes(mesh: FaceMesh, assets: Path, name: str, what: str, colour: str) -> None:
    picture = open_image(assets / "portraits" / f"{name}.jpg")
    drawn = covered(picture, mesh(picture), what, CLOTHS[colour])
    portrait = cut_portrait(drawn, 128, mesh.faces(drawn)[0])
    assert eyes_covered(portrait.image, portrait.landmarks)


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("name", ["demo", "second", "third", "fourth"])
def test_eyes_in_sight_are_not_covered(mesh: FaceMesh, assets: Path, name: str, size: int) -> None:
    portrait = crop_portrait(open_image(assets / "portraits" / f"{name}.jpg"), size, mesh)
    assert not eyes_covered(portrait.image, portrait.landmarks)
    grey = np.repeat(portrait.image.mean(2, keepdims=True), 3, 2)
    assert not eyes_covered(grey, portrait.landmarks)


@pytest.mark.parametrize(("name", "hidden"), [
    ("api_kling_omni_image-1", True), ("gsl_creator_2-1", True), ("templates_rob_portrait_light_migration.app-2", True),
    ("api_bria_genfill-1", False), ("image_flux2-1", False), ("flux1_krea_dev-1", False), ("image_qwen_image_instantx_controlnet-1", False),
], ids=["straw hat", "sunglasses", "visor", "red eye shadow", "hat above the brow", "eyes in shadow", "strands of hair"])
def test_portraits_with_and_without_something_over_the_eyes(mesh: FaceMesh, shared: Path, name: str, hidden: bool) -> None:
    picture = open_image(shared / "assets" / "portraits" / f"{name}.webp")
    portrait = cut_portrait(picture, 128, mesh.faces(picture)[0])
    assert eyes_covered(portrait.image, portrait.landmarks) == hidden


def test_a_covered_portrait_gets_no_blinks(mesh: FaceMesh, assets: Path) -> None:
    model, picture = load_model(), open_image(assets / "portraits" / "demo.jpg")
    voice = talk.encode_audio(Waveform(samples=np.zeros(16000, np.float32)), model.config)
    drawn = covered(picture, mesh(picture), GLASSES, CLOTHS["black"])
    for given, blinking in ((picture, True), (drawn, False)):
        built = talk.build_scene(model, talk.prepare_portrait(given, model.config), talk.select_speaking(voice, "listening"))
        decoder = talk.sample_stream(model, built).decoder
        assert decoder is not None and decoder.view is not None and decoder.view.life is not None
        assert decoder.view.life.eyes == blinking
