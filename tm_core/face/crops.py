"""Turned square crops of pictures, sampled with torch.

Pixel coordinates here and in all of `face`: (x, y), the centre of the top left pixel is (0, 0).
Non-goals: colour, formats, anything that is not a square. No section of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LARGEST = 2048  # pixels of a side: larger parts of a picture are averaged before they become floats, which need gigabytes


@dataclass(frozen=True, kw_only=True)
class Squares:
    """N turned squares: centre (N, 2) in pixels, side (N,) in pixels, angle (N,) in radians, clockwise on screen."""

    centre: np.ndarray
    side: np.ndarray
    angle: np.ndarray

    def __len__(self) -> int:
        return len(self.side)

    def __getitem__(self, index: slice | np.ndarray) -> Squares:
        return Squares(centre=self.centre[index], side=self.side[index], angle=self.angle[index])

    @staticmethod
    def join(parts: list[Squares]) -> Squares:
        """The squares of all parts, in order."""
        return Squares(
            centre=np.concatenate([p.centre for p in parts]), side=np.concatenate([p.side for p in parts]),
            angle=np.concatenate([p.angle for p in parts]))

    def repeat(self, n: int) -> Squares:
        """The last square n times."""
        return Squares(centre=self.centre[-1:].repeat(n, 0), side=self.side[-1:].repeat(n), angle=self.angle[-1:].repeat(n))

    def around(self, larger: float = 1.0, turned: float = 0.0, right: float = 0.0, down: float = 0.0) -> Squares:
        """The squares `larger` times as large, turned by radians more, shifted by shares of their sides in the picture."""
        return Squares(
            centre=self.centre + self.side[:, None] * np.array([right, down]), side=self.side * larger, angle=self.angle + turned)

    def axes(self) -> np.ndarray:
        """(N, 2, 2): rows are the square's own x and y axis in the picture, unit length."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)

    def to_picture(self, points: np.ndarray, size: int) -> np.ndarray:
        """Points (N, P, 2 or 3) of crops of `size` pixels, in the picture's pixels; depth is scaled only."""
        flat = (points[..., :2] - size / 2) * (self.side / size)[:, None, None] @ self.axes() + self.centre[:, None]
        return np.concatenate([flat, points[..., 2:] * (self.side / size)[:, None, None]], -1)

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest pixel coordinates that any of the squares touches."""
        half = (self.side / 2 * (np.abs(np.cos(self.angle)) + np.abs(np.sin(self.angle))))[:, None]
        return (self.centre - half).min(0), (self.centre + half).max(0)


def sample_squares(pictures: np.ndarray, squares: Squares, size: int) -> Tensor:
    """Crops (N, 3, size, size) float32 0..255 of pictures (N or 1, H, W, 3) uint8; black beyond the picture."""
    low, high = squares.reach()
    limit = np.array(pictures.shape[2:0:-1])
    x0, y0 = np.clip(np.floor(low) - 1, 0, limit - 1).astype(int)
    x1, y1 = np.clip(np.ceil(high) + 2, [x0 + 1, y0 + 1], limit).astype(int)
    # a crop far larger than its target is averaged first, or single pixels would stand for many
    factor = max(1, int(squares.side.min() / size))
    region = _averaged(pictures[:, y0:y1, x0:x1], factor)
    offset = np.array([x0, y0]) + (factor - 1) / 2
    grid = _grid(squares, size, offset, factor, (region.shape[3], region.shape[2]))
    if len(region) == 1 and len(squares) > 1:
        region = region.expand(len(squares), -1, -1, -1)
    return F.grid_sample(region, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _averaged(pixels: np.ndarray, factor: int) -> Tensor:
    """Means of squares of `factor` pixels of (N, H, W, 3) uint8 as (N, 3, H', W') float32."""
    if factor > 1 and max(pixels.shape[1:3]) > LARGEST:
        return _floats(np.stack([np.asarray(Image.fromarray(picture).reduce(factor)) for picture in pixels]))
    region = _floats(pixels)
    return F.avg_pool2d(region, factor, ceil_mode=True, count_include_pad=False) if factor > 1 else region


def _floats(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()


def _grid(squares: Squares, size: int, offset: np.ndarray, factor: int, extent: tuple[int, int]) -> Tensor:
    """(N, size, size, 2): where each crop pixel lies in the region, in grid_sample's -1..1."""
    axes = torch.from_numpy(squares.axes() * (squares.side / size)[:, None, None]).float()
    start = torch.from_numpy((squares.centre - offset) / factor).float()
    steps = torch.arange(size, dtype=torch.float32) - size / 2
    x, y = steps[None, :, None] * axes[:, None, 0], steps[None, :, None] * axes[:, None, 1]
    pixels = (x[:, None, :] + y[:, :, None]) / factor + start[:, None, None]
    return (2 * pixels + 1) / torch.tensor(extent, dtype=torch.float32) - 1


def square_crops(pictures: Tensor, squares: np.ndarray, side: int, *, beyond: Literal["zeros", "border"]) -> Tensor:
    """(T, C, side, side) of pictures (T, C, H, W) float at squares (T, 3): centre x, y and half a side, in pixels."""
    height, width = pictures.shape[-2:]
    line = (torch.arange(side) * 2 + 1) / side - 1
    x, y, half = torch.as_tensor(squares, dtype=torch.float32).T[..., None, None]
    across = (x + half * line[None, None] + 0.5) * 2 / width - 1
    down = (y + half * line[None, :, None] + 0.5) * 2 / height - 1
    grid = torch.stack(torch.broadcast_tensors(across, down), -1)
    return F.grid_sample(pictures, grid, align_corners=False, padding_mode=beyond)
