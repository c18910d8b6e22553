"""Face region, lips, tokens and a user's mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tm_core.config import tiny
from tm_core.face.mask import crop_mask, face_mask, lips_mask, moved_mask, token_mask
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import PortraitCrop, crop_portrait
from tm_core.face.topology import CHIN, FOREHEAD, OUTER_LIPS


@pytest.fixture(scope="module")
def portrait(mesh: FaceMesh, demo: np.ndarray) -> PortraitCrop:
    return crop_portrait(demo, 128, mesh)


def at(mask: np.ndarray, point: np.ndarray) -> float:
    x, y = np.round(point[:2]).astype(int)
    return float(mask[y, x])


def test_region_covers_the_face_and_an_open_jaw(portrait: PortraitCrop) -> None:
    mask = face_mask(portrait.landmarks, 128)
    assert mask.shape == (128, 128) and mask.dtype == np.float32 and mask.min() == 0.0 and mask.max() == 1.0
    drop = (portrait.landmarks[CHIN] - portrait.landmarks[FOREHEAD]) * 0.06
    assert at(mask, portrait.landmarks[13]) == 1.0
    assert at(mask, portrait.landmarks[CHIN] + drop) > 0.5
    assert at(mask, portrait.landmarks[CHIN] + 5 * drop) < 0.1
    assert mask[0].max() == mask[:, 0].max() == 0.0


def test_edge_is_soft_unless_asked_otherwise(portrait: PortraitCrop) -> None:
    soft, hard = face_mask(portrait.landmarks, 128), face_mask(portrait.landmarks, 128, feather=0.0)
    assert np.abs(np.diff(soft, axis=1)).max() < 0.25 < np.abs(np.diff(hard, axis=1)).max()
    assert soft.mean() == pytest.approx(hard.mean(), rel=0.02)


def test_lips_are_a_small_part_of_the_face(portrait: PortraitCrop) -> None:
    lips, face = lips_mask(portrait.landmarks, 128), face_mask(portrait.landmarks, 128)
    assert all(at(lips, p) > 0.4 for p in portrait.landmarks[list(OUTER_LIPS)])
    assert 0.02 < lips.sum() / face.sum() < 0.3
    assert (lips <= face + 0.5).all()


def test_tokens_agree_with_what_the_model_was_trained_on(portrait: PortraitCrop) -> None:
    from tm_core.train.dataset import normalised
    from tm_core.train.sequences import face_tokens

    cfg = tiny()
    ours = token_mask(face_mask(portrait.landmarks, 128), cfg.token_hw)
    theirs = face_tokens(torch.from_numpy(normalised(portrait.landmarks, 128)), cfg).numpy()
    assert np.abs(ours - theirs).max() < 0.08


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (1, 1), (128, 128)], ids=str)
def test_token_mask_is_the_mean_of_its_area(grid: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((128, 128)).astype(np.float32)
    tokens = token_mask(mask, grid)
    assert tokens.shape == (grid[0] * grid[1],) and tokens.dtype == np.float32
    assert tokens.mean() == pytest.approx(mask.mean(), rel=1e-4)
    if 128 % grid[0] == 0:
        block = mask[: 128 // grid[0], : 128 // grid[1]]
        assert tokens[0] == pytest.approx(block.mean(), rel=1e-4)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.5, 0.25)], ids=["same", "half", "double", "stretched"])
def test_a_users_mask_of_any_size_lands_on_its_place(scale: tuple[float, float], demo: np.ndarray, portrait: PortraitCrop) -> None:
    from PIL import Image

    height, width = demo.shape[:2]
    whole = np.zeros((height, width), np.float32)
    x0, y0, x1, y1 = (round(v) for v in portrait.box)
    whole[(y0 + y1) // 2 : y1, x0:x1] = 1.0  # lower half of the crop
    size = round(width * scale[0]), round(height * scale[1])
    cropped = crop_mask(np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX)), portrait, demo.shape[:2])
    assert cropped.shape == (128, 128) and cropped.dtype == np.float32
    assert cropped[:58].max() < 0.1 and cropped[70:122, 6:122].min() > 0.9


def test_a_mask_lies_at_the_same_place_of_the_picture_in_another_crop() -> None:
    """Of a picture 80 wide, crops 40 wide drawn at 20: a block at 30..40 of it."""
    mask = np.zeros((10, 20), np.float32)
    mask[2:8, 15:20] = 1
    moved = moved_mask(mask, (0.0, 0.0, 40.0, 20.0), (20.0, 0.0, 60.0, 20.0))
    wanted = np.zeros_like(mask)
    wanted[2:8, 5:10] = 1
    assert np.abs(moved - wanted).max() < 1e-5
    half = moved_mask(mask, (0.0, 0.0, 40.0, 20.0), (0.0, 10.0, 40.0, 30.0))
    assert np.abs(half[:3, 15:] - 1).max() < 1e-5 and half[3:].max() < 1e-5
    assert moved_mask(mask, (0.0, 0.0, 40.0, 20.0), (0.0, 0.0, 40.0, 20.0)) is mask
    assert not moved_mask(mask, (0.0, 0.0, 40.0, 20.0), (40.0, 0.0, 80.0, 20.0)).any()
