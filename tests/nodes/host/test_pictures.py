"""IMAGE and MASK in every form hosts have used."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def pictures(pack: Callable[[str], ModuleType]) -> ModuleType:
    return pack("nodes.host.pictures")


def levels(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_every_level_survives_every_precision(pictures: ModuleType, dtype: torch.dtype) -> None:
    given = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    image = torch.from_numpy(given.astype(np.float64) / 255.0).to(dtype)[None]
    assert np.array_equal(pictures.picture_of(image), given)


def test_there_and_back(pictures: ModuleType) -> None:
    frames = np.stack([levels(), levels()[::-1]])
    image = pictures.image_of(frames)
    assert image.shape == (2, 5, 7, 3) and image.dtype == torch.float32
    assert 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
    assert np.array_equal(pictures.picture_of(image[:1]), frames[0])


def test_out_of_range_and_nan_are_tamed(pictures: ModuleType) -> None:
    image = torch.tensor([-1.0, 2.0, float("nan")]).reshape(1, 1, 1, 3)
    assert pictures.picture_of(image).ravel().tolist() == [0, 255, 0]


def test_grey_becomes_colour(pictures: ModuleType) -> None:
    grey = levels(1)
    picture = pictures.picture_of(torch.from_numpy(grey.astype(np.float32) / 255.0)[None])
    assert picture.shape == (5, 7, 3) and np.array_equal(picture[..., 2], grey[..., 0])


def test_transparent_parts_become_white(pictures: ModuleType) -> None:
    rgba = torch.zeros(1, 1, 2, 4)
    rgba[0, 0, 0, 3] = 1.0
    assert pictures.picture_of(rgba)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (0, 5, 7, 3), (5, 7, 3), (1, 5, 7, 2)], ids=str)
def test_what_is_not_one_picture_is_refused(pictures: ModuleType, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image:"):
        pictures.picture_of(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)], ids=str)
def test_masks_with_and_without_a_batch(pictures: ModuleType, shape: tuple[int, ...]) -> None:
    mask = torch.linspace(-0.5, 1.5, 24, dtype=torch.float16).reshape(shape)
    region = pictures.region_of(mask)
    assert region.shape == (4, 6) and region.dtype == np.float32 and region.min() == 0.0 and region.max() == 1.0
    assert torch.equal(pictures.mask_of(region)[0], torch.from_numpy(region))


def test_several_masks_are_refused(pictures: ModuleType) -> None:
    with pytest.raises(ValueError, match="mask: 3 masks"):
        pictures.region_of(torch.zeros(3, 4, 6))
