"""Crops: framing, limits, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import PortraitCrop, crop_portrait, into_crop, resample
from tm_core.face.topology import CHIN, FOREHEAD


def face_height(portrait: PortraitCrop) -> float:
    return float(np.linalg.norm(portrait.landmarks[CHIN, :2] - portrait.landmarks[FOREHEAD, :2])) / len(portrait.image)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_crop_and_landmarks_fit_together(size: int, mesh: FaceMesh, demo: np.ndarray) -> None:
    portrait = crop_portrait(demo, size, mesh)
    assert portrait.image.shape == (size, size, 3) and portrait.image.dtype == np.uint8
    again = mesh(portrait.image)
    assert np.median(np.linalg.norm(again[:, :2] - portrait.landmarks[:, :2], axis=1)) < 0.012 * size
    assert 0.4 < face_height(portrait) < 0.75


def test_same_picture_same_pixels(mesh: FaceMesh, demo: np.ndarray) -> None:
    a, b = (crop_portrait(demo, 128, FaceMesh()) for _ in range(2))
    assert np.array_equal(a.image, b.image) and np.array_equal(a.landmarks, b.landmarks) and a.box == b.box


@pytest.mark.parametrize("cut", ["left", "right", "top", "bottom"])
def test_a_face_at_the_edge_stays_inside_the_picture(cut: str, mesh: FaceMesh, demo: np.ndarray) -> None:
    low, high = (f(mesh(demo)[:, :2], axis=0).astype(int) for f in (np.min, np.max))
    part = {
        "left": demo[:, max(0, low[0] - 2) :], "right": demo[:, : high[0] + 2],
        "top": demo[max(0, low[1] - 2) :], "bottom": demo[: high[1] + 2],
    }[cut]
    x0, y0, x1, y1 = crop_portrait(part, 128, mesh).box
    half = (x1 - x0) / 2
    if half <= min(part.shape[:2]) / 2:
        assert x0 >= -1e-6 and y0 >= -1e-6 and x1 <= part.shape[1] + 1e-6 and y1 <= part.shape[0] + 1e-6


def test_a_face_that_fills_the_picture_is_extended_not_cut(mesh: FaceMesh, demo: np.ndarray) -> None:
    low, high = (f(mesh(demo)[:, :2], axis=0).astype(int) for f in (np.min, np.max))
    tight = demo[max(0, low[1] - 4) : high[1] + 4, max(0, low[0] - 4) : high[0] + 4]
    portrait = crop_portrait(tight, 128, mesh)
    assert portrait.landmarks[:, :2].min() > 0 and portrait.landmarks[:, :2].max() < 127
    assert portrait.image.std(axis=(0, 1)).min() > 5  # no flat bars round it


def test_huge_pictures_give_the_same_crop(mesh: FaceMesh, demo: np.ndarray) -> None:
    huge = np.asarray(Image.fromarray(demo).resize((4500, round(4500 * demo.shape[0] / demo.shape[1])), Image.Resampling.BICUBIC))
    a, b = crop_portrait(demo, 128, mesh), crop_portrait(huge, 128, mesh)
    shift = np.linalg.norm(a.landmarks[:, :2] - b.landmarks[:, :2], axis=1)
    assert np.median(shift) < 1.5
    assert np.abs(a.image.astype(int) - b.image).mean() < 8


def test_a_face_too_small_to_animate_is_refused(mesh: FaceMesh, demo: np.ndarray) -> None:
    base = Image.fromarray(crop_portrait(demo, 256, mesh).image)
    with pytest.raises(InputError, match=r"a face of .* pixels: .*larger picture"):
        crop_portrait(np.asarray(base.resize((44, 44), Image.Resampling.BOX)), 128, mesh)
    assert crop_portrait(np.asarray(base.resize((80, 80), Image.Resampling.BOX)), 128, mesh).image.shape == (128, 128, 3)


def test_two_faces_need_a_choice(mesh: FaceMesh, pair: np.ndarray) -> None:
    with pytest.raises(InputError, match="2 faces"):
        crop_portrait(pair, 128, mesh)
    left, right = (crop_portrait(pair, 128, mesh, i) for i in range(2))
    assert left.box[0] < right.box[0]
    assert np.abs(left.image[:, ::-1].astype(int) - right.image).mean() < 25  # the mirror image


def test_resample_maps_pixel_edges() -> None:
    """A step edge of the picture lands where `into_crop` says."""
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:, 50:] = 200
    crop = resample(picture, (30.0, 20.0, 80.0, 70.0), 100)
    assert crop[50, 38, 0] < 20 and crop[50, 41, 0] > 180
    point = into_crop(np.array([[49.5, 45.0, 1.0]]), (30.0, 20.0, 80.0, 70.0), 100)
    assert point[0] == pytest.approx([39.5, 50.5, 2.0])


def test_resample_mirrors_beyond_the_edge() -> None:
    picture = np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (40, 1, 3))
    crop = resample(picture, (-8.0, 0.0, 32.0, 40.0), 40)
    assert np.abs(crop[:, 7].astype(int) - crop[:, 8]).max() <= 2
    assert np.array_equal(crop[:, 8:], picture[:, :32])
