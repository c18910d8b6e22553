"""The video is the picture, or a crop of it: sizes, places, edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core import talk
from tm_core.compose.canvas import ComposedStream
from tm_core.errors import InputError
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.options import AnimateOptions
from tm_core.talk.framing import framed, shrunk, side_by_side, view_of
from tm_core.weights.loading import load_model


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="module")
def rgb(assets: Path) -> np.ndarray:
    return open_image(assets / "portraits" / "demo.jpg")


def resized(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(("size", "given", "expected"), [
    (None, (401, 401), (401, 401)), (None, (1500, 1500), (1024, 1024)), (640, (1500, 1500), (640, 640)), (2000, (700, 700), (700, 700))])
def test_a_picture_keeps_its_size_up_to_a_limit(
    model: TalkingModel, rgb: np.ndarray, size: int | None, given: tuple[int, int], expected: tuple[int, int],
) -> None:
    picture = resized(rgb, *given)
    view = framed(view_of(talk.prepare_portrait(picture, model.config)), "picture", size)
    assert view.picture.shape[1::-1] == expected
    if expected == given:
        assert view.picture is picture
    face = talk.face_mesh()(view.picture)
    assert np.abs(face[:, :2] - view.landmarks[:, :2]).mean() < 0.012 * expected[0]


@pytest.mark.parametrize("size", [None, 200, 513])
def test_a_crop_has_the_size_that_was_asked_for(model: TalkingModel, rgb: np.ndarray, size: int | None) -> None:
    view = framed(view_of(talk.prepare_portrait(rgb, model.config)), "face", size)
    assert view.picture.shape == (size or 512, size or 512, 3) and view.box == pytest.approx((0, 0, size or 512, size or 512))


def test_a_face_that_fills_the_picture_ends_where_it_ends(model: TalkingModel, rgb: np.ndarray) -> None:
    """No mirrored edge is ever shown: a narrow picture gives a narrow video."""
    face = talk.face_mesh().faces(rgb)[0]
    x0, y0, x1, y1 = (int(v) for v in face.box)
    narrow = np.ascontiguousarray(rgb[max(0, y0 - 40) : y1 + 40, x0 + 4 : x1 - 4])
    portrait = talk.prepare_portrait(narrow, model.config)
    assert portrait.crop.box[0] < 0 or portrait.crop.box[2] > narrow.shape[1], "the crop does leave the picture"
    view = framed(view_of(portrait), "face", 512)
    assert view.picture.shape[0] == 512 and view.picture.shape[1] < 512
    scale = 512 / (min(portrait.crop.box[3], narrow.shape[0]) - max(portrait.crop.box[1], 0))
    assert view.picture.shape[1] == pytest.approx(narrow.shape[1] * scale, abs=1)
    assert not view.share[:, 0].any() and not view.share[:, -1].any()


def test_faces_side_by_side_own_different_pixels(model: TalkingModel, assets: Path) -> None:
    picture = open_image(assets / "portraits" / "group.jpg")
    portraits = [talk.prepare_portrait(picture, model.config, face_index=i) for i in (0, 1)]
    views = shrunk([view_of(p) for p in portraits], None)
    counts = np.zeros(picture.shape[:2], int)
    for view, (x0, y0, x1, y1), own in side_by_side(views):
        assert own is not None and view.picture.shape[:2] == own.shape == (y1 - y0, x1 - x0)
        part = counts[int(y0) : int(y1), int(x0) : int(x1)]
        part += own
        middle = view.landmarks[:, :2].mean(0).round().astype(int)
        assert own[middle[1], middle[0]]
        assert np.array_equal(view.picture, picture[int(y0) : int(y1), int(x0) : int(x1)])
    assert counts.max() == 1


@pytest.mark.slow
def test_everybody_talks_in_the_picture_and_the_rest_stays(model: TalkingModel, assets: Path) -> None:
    image, audio = assets / "portraits" / "group.jpg", assets / "speech" / "librivox_sense_and_sensibility_0870.wav"
    stream = talk.animate(image, audio, model=model, options=AnimateOptions(face="all"))
    assert isinstance(stream, ComposedStream)
    picture = open_image(image)
    chunks = stream.chunks()
    frames = np.concatenate([next(chunks).frames for _ in range(3)])
    chunks.close()
    moved = (frames != picture).any((0, 3))
    assert frames.shape[1:] == picture.shape
    for face in talk.face_mesh().faces(picture):
        x, y = face.landmarks[[13, 14], :2].mean(0).round().astype(int)
        assert moved[y - 4 : y + 5, x - 4 : x + 5].any()
    assert not moved[:20].any() and not moved[-40:].any() and moved.mean() < 0.5


def test_a_crop_of_everybody_is_refused(model: TalkingModel) -> None:
    with pytest.raises(InputError, match=r"framing: .*shows one face"):
        AnimateOptions(face="all", framing="face").check()


@pytest.mark.parametrize(("options", "words"), [
    ({"framing": "landscape"}, "framing.*is no framing; choose picture or face"), ({"size": 63}, "size.*must be 64 to 4096"),
    ({"size": 4097}, "size.*must be 64 to 4096")])
def test_what_is_no_framing_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        AnimateOptions(**options).check()  # type: ignore[arg-type]
