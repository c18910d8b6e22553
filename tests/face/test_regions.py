"""Masks of several faces from whatever tells where they are, and the picture that shows them."""

from __future__ import annotations

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.face.found import Faces, find_faces, mask_faces
from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import Face
from tm_core.face.overlay import colour_of, overlay
from tm_core.face.regions import MaskChoices, Source, face_masks
from tm_core.face.search import FaceFinder
from tm_core.face.segment import PersonSegmenter
from tm_core.face.topology import OUTER_LIPS, OVAL

HARD = MaskChoices(feather=0)


@pytest.fixture(scope="module")
def faces(mesh: FaceMesh, pair: np.ndarray) -> list[Face]:
    return FaceFinder(mesh=mesh)(pair)


def size_of(rgb: np.ndarray) -> tuple[int, int]:
    return rgb.shape[1], rgb.shape[0]


def at(mask: np.ndarray, point: np.ndarray) -> float:
    x, y = np.round(point[:2]).astype(int)
    return float(mask[y, x])


@pytest.mark.parametrize("region", ["lips", "face", "head"])
def test_every_face_has_its_own_mask(region: str, faces: list[Face], pair: np.ndarray) -> None:
    masks = face_masks(faces, size_of(pair), MaskChoices(region=region), rgb=pair)
    assert masks.shape == (2, *pair.shape[:2]) and masks.dtype == np.float32 and masks.min() == 0.0
    assert masks.sum(0).max() <= 1.0
    for own, mask in enumerate(masks):
        assert at(mask, faces[own].landmarks[13]) == 1.0 and at(mask, faces[1 - own].landmarks[13]) == 0.0


def test_lips_lie_in_the_face_and_the_face_in_the_head(faces: list[Face], pair: np.ndarray) -> None:
    lips, face, head = (
        face_masks(faces, size_of(pair), MaskChoices(region=r, feather=0), rgb=pair)[0] > 0 for r in ("lips", "face", "head"))
    assert all(at(lips, p) for p in faces[0].landmarks[list(OUTER_LIPS)]) and all(at(face, p) for p in faces[0].landmarks[list(OVAL)])
    assert not (lips & ~face).any() and not (face & ~head).any()
    assert 1.2 * face.sum() < head.sum() < 4 * face.sum()


def test_a_head_has_hair_and_no_background(faces: list[Face], pair: np.ndarray) -> None:
    head = face_masks(faces[:1], size_of(pair), MaskChoices(region="head", feather=0), rgb=pair)[0]
    x0, y0, x1, _ = faces[0].box
    wide = x1 - x0
    person = PersonSegmenter()(pair[:, : pair.shape[1] * 4 // 7])
    inside = head[:, : person.shape[1]] > 0
    assert person[inside].mean() > 0.9  # a view of its own agrees
    assert head[max(0, round(y0 - 0.2 * wide)), round((x0 + x1) / 2)] == 1.0  # hair over the forehead


def test_grow_and_feather_are_pixels() -> None:
    disc = np.hypot(*np.mgrid[-60:60, -60:60]) < 30
    source = [disc.astype(np.float32)]

    def radius(**options: float) -> float:
        (mask,) = face_masks(source, (120, 120), MaskChoices(**{"feather": 0.0, **options}))
        return float(np.sqrt(mask.sum() / np.pi))

    assert radius(grow=7) == pytest.approx(37, abs=0.6) and radius(grow=-7) == pytest.approx(23, abs=0.6)
    assert radius(feather=10) == pytest.approx(30, abs=0.6)
    row = face_masks(source, (120, 120), MaskChoices(feather=10))[0][60]
    assert np.count_nonzero((row > 0) & (row < 1)) == pytest.approx(20, abs=2)  # ten on each side
    assert np.array_equal(face_masks(source, (120, 120), HARD)[0], source[0])


def test_a_soft_mask_without_edits_stays_to_the_bit() -> None:
    soft = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    assert np.array_equal(face_masks([soft], (50, 40), HARD)[0], soft)


def test_where_masks_meet_the_nearest_has_the_pixel() -> None:
    left, right, both = np.zeros((40, 100), np.float32), np.zeros((40, 100), np.float32), MaskChoices(feather=0, exclusive=False)
    left[:, :60], right[:, 40:] = 1, 1
    apart, together = (face_masks([left, right], (100, 40), c) for c in (HARD, both))
    assert apart.sum(0).max() == 1.0 and together.sum(0).max() == 2.0
    assert np.array_equal(apart.sum(0), np.ones((40, 100), np.float32))
    assert apart[0, 20, 45] == 1.0 and apart[1, 20, 55] == 1.0
    soft = face_masks([left, right], (100, 40), MaskChoices(feather=9, grow=3))
    assert soft.sum(0).max() <= 1.0


def test_boxes_and_landmarks_from_elsewhere_agree_with_faces(faces: list[Face], pair: np.ndarray) -> None:
    ours = face_masks(faces, size_of(pair), HARD)[0] > 0
    points = faces[0].landmarks
    sources: list[Source] = [points, np.concatenate([points, np.zeros((10, 3), np.float32)]), points[::3, :2], faces[0].box]
    for source in sources:
        (theirs,) = face_masks([source], size_of(pair), HARD) > 0
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.75
    lips = face_masks([faces[0].box], size_of(pair), MaskChoices(region="lips", feather=0))[0]
    assert at(lips, faces[0].landmarks[13]) == 1.0


@pytest.mark.parametrize(
    ("source", "options", "field"),
    [((5.0, 5.0, 2.0, 9.0), {}, "box 0"), ((500.0, 5.0, 900.0, 9.0), {}, "box 0"), (np.zeros((20, 30), np.float32), {}, "mask 0"),
     (np.zeros((2, 2)), {}, "landmarks 0"), (np.random.default_rng(0).random((9, 2)), {"region": "lips"}, "landmarks 0"),
     ((1.0, 1.0, 9.0, 9.0), {"region": "head"}, "face 0")])
def test_sources_that_cannot_be_masked_say_why(source: Source, options: dict[str, str], field: str) -> None:
    with pytest.raises(InputError) as e:
        face_masks([source], (30, 20), MaskChoices(**options))  # type: ignore[arg-type]
    assert e.value.field == field and e.value.remedy


@pytest.mark.parametrize(("name", "value"), [("region", "nose"), ("feather", -1.0), ("grow", float("nan"))])
def test_choices_are_checked(name: str, value: object) -> None:
    with pytest.raises(InputError) as e:
        MaskChoices(**{name: value})  # type: ignore[arg-type]
    assert e.value.field == name


def test_no_sources_no_masks() -> None:
    assert face_masks([], (30, 20), HARD).shape == (0, 20, 30)


def test_the_overlay_tints_each_face_in_its_colour() -> None:
    grey = np.full((100, 200, 3), 90, np.uint8)
    masks = np.zeros((2, 100, 200), np.float32)
    masks[0, 20:90, 20:80], masks[1, 20:90, 120:180] = 1, 1
    shown = overlay(grey, masks).astype(int)
    assert np.array_equal(shown[5, 5], [90] * 3) and colour_of(0) != colour_of(1)
    for i, x in enumerate((60, 160)):
        assert np.abs((shown[80, x] - 90) / 0.45 - (np.array(colour_of(i)) - 90)).max() < 4
    framed = overlay(grey, boxes=[(20.0, 30.0, 80.0, 90.0)])
    assert tuple(framed[90, 50]) == colour_of(0) and not np.array_equal(framed, grey)


def test_masks_of_a_picture_are_those_of_its_faces(pair: np.ndarray) -> None:
    found = find_faces(pair)
    masks, shown = mask_faces(pair, found, MaskChoices())
    again, _ = mask_faces(pair, None, MaskChoices())
    assert np.array_equal(masks, again) and shown.shape == pair.shape and len(masks) == 2


def test_faces_of_another_picture_and_no_faces_are_errors(pair: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"faces: found in 10x20 pixels"):
        mask_faces(pair, Faces(faces=(), width=10, height=20), MaskChoices())
    with pytest.raises(InputError, match="no face found"):
        mask_faces(np.zeros((90, 90, 3), np.uint8), None, MaskChoices())
