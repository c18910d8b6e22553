"""Colours of a stream kept near its portrait's: mean and spread of each CIE Lab channel, frame by frame.

Clips that lead one another drift in colour (InfiniteTalk's authors: after a minute); their official samplers move every
frame's statistics to the portrait's. A frame's are its own, as there: nothing here knows of chunks, so none can show.
The price: a frame that truly darkens (a mouth that opens wide) is lightened all over by as much as its mean fell.
Source of the rule: `match_and_blend_colors_torch` of Soul-AILab/SoulX-FlashTalk 688982e; of the colours: CIE 15 and
IEC 61966-2-1 with white D65. Non-goals: local or temporal statistics, other colour spaces.

Shapes: T frames, H x W pixels; a picture is (3, H, W) in 0..1.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..config import check_share

WHITE = (0.95047, 1.0, 1.08883)  # XYZ of D65
PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # x, y of sRGB's red, green, blue
CORNER = 6 / 29  # where CIE's cube root turns into a line
FLAT = 1e-2  # least spread a channel is scaled up from: below it there is rounding, not colour


def rgb_to_white() -> Tensor:
    """Linear sRGB -> XYZ as shares of white's, (3, 3) float64; rows sum to 1."""
    columns = torch.tensor([[x / y, 1.0, (1 - x - y) / y] for x, y in PRIMARIES], dtype=torch.float64).T
    white = torch.tensor(WHITE, dtype=torch.float64)
    scaled: Tensor = columns * torch.linalg.solve(columns, white)
    return scaled / white[:, None]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _matrix(back: bool, device: str, dtype: torch.dtype) -> Tensor:
    """`rgb_to_white` or its inverse, copied to a device once."""
    matrix = rgb_to_white()
    return (torch.linalg.inv(matrix) if back else matrix).to(device=device, dtype=dtype)


def to_lab(rgb: Tensor) -> Tensor:
    """Lab of a picture, L in 0..100."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    share = _mixed(linear)
    x, y, z = torch.where(share > CORNER**3, share.clamp(min=0) ** (1 / 3), share / (3 * CORNER**2) + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def to_rgb(lab: Tensor) -> Tensor:
    """The picture of Lab values; colours that sRGB has not are clipped."""
    y = (lab[0] + 16) / 116
    root = torch.stack([y + lab[1] / 500, y, y - lab[2] / 200])
    share = torch.where(root > CORNER, root**3, 3 * CORNER**2 * (root - 4 / 29))
    linear = _mixed(share, back=True).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def _mixed(picture: Tensor, *, back: bool = False) -> Tensor:
    mixed: Tensor = torch.tensordot(_matrix(back, str(picture.device), picture.dtype), picture, 1)
    return mixed


class ColourCorrection:
    """Moves frames' colours towards `reference` (3, H, W) by `strength` in 0..1; InputError for another."""

    def __init__(self, reference: Tensor, strength: float) -> None:
        check_share("colour_correction", strength)
        self._strength = strength
        self._mean, self._spread = _statistics(to_lab(reference.float()))

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (T, 3, H, W) in 0..1, of the type they came in; one at a time, since Lab is float32."""
        return torch.stack([self._corrected(frame) for frame in frames]) if len(frames) else frames

    def _corrected(self, frame: Tensor) -> Tensor:
        lab = to_lab(frame.float())
        mean, spread = _statistics(lab)
        moved = (lab - mean) * (self._spread.to(lab) / spread.clamp(min=FLAT)) + self._mean.to(lab)
        return torch.lerp(frame.float(), to_rgb(moved), self._strength).to(frame)


def _statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1) of each channel."""
    return lab.mean((1, 2), keepdim=True), lab.std((1, 2), keepdim=True, unbiased=False)
