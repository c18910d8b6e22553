"""Stage `look`: the lip stream's convolutions read mouth shapes off patches round the mouth, an eighth of a crop.

Shapes: N windows, T frames, S mouth shapes.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ...metrics.syncnet import FRAMES, SIDE, SyncNet, face_crops, flat
from ..landmarks import LOWER, UPPER
from ..visemes import SHAPES
from .speech_clips import WINDOWS, TalkClip

PATCH, SPACE = 96, 20  # side of the mouth's patch, pixels around it to shift it in
LIP_FIXED = 17  # the first layers of the lip stream, up to its last pool


class LipPretraining(nn.Module):
    """The lip stream's convolutions and a head that reads the five frames' mouth shapes."""

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.netcnnlip = nn.Sequential(*list(net.netcnnlip)[:LIP_FIXED])
        self.pool = net.netcnnlip[LIP_FIXED]
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, FRAMES * len(SHAPES)))

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 30) of patches (N, 15, 96, 96)."""
        return cast(Tensor, self.head(flat((*self.netcnnlip.children(), self.pool), patches)))


def patches_of(clip: TalkClip, rng: np.random.Generator) -> Tensor:
    """(T, 3, 136, 136) uint8 round the mouth, cut out of crops whose boxes are off a little."""
    boxes = shaken(clip.boxes, rng)
    lips = clip.landmarks[:, [*UPPER, *LOWER], :2].mean((0, 1))
    at = ((lips - boxes[:, :2]) / boxes[:, 2:]).mean(0) * SIDE / 2 + SIDE / 2
    side = PATCH + 2 * SPACE
    x, y = (int(np.clip(round(float(v)) - side // 2, 0, SIDE - side)) for v in at)
    return face_crops(clip.frames, boxes)[:, :, y : y + side, x : x + side].round().clamp(0, 255).byte()


def shaken(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Boxes (T, 3) shifted by up to 5 %, larger or smaller by up to 8 %, all alike."""
    return np.asarray(boxes + rng.uniform(-1, 1, 3) * (0.05, 0.05, 0.08) * boxes[0, 2])


def patch_batch(bank: list[tuple[Tensor, Tensor]], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Windows (N, 15, 96, 96) of different clips, some mirrored, other light; mouths (N, 5 S)."""
    faces, mouths = [], []
    for pick in rng.permutation(len(bank))[:size]:
        patches, mouth = bank[pick]
        at, (x, y) = int(rng.integers(0, WINDOWS)), rng.integers(0, 2 * SPACE, 2)
        cut = patches[at : at + FRAMES, :, y : y + PATCH, x : x + PATCH].float()
        faces.append(lit(cut.flip(-1) if rng.integers(2) else cut, rng).transpose(0, 1).flatten(0, 1))
        mouths.append(mouth[at : at + FRAMES].flatten())
    return torch.stack(faces).contiguous(memory_format=torch.channels_last), torch.stack(mouths)


def lit(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (..., 3, H, W) in another light."""
    colour = torch.from_numpy(rng.uniform(-12, 12, (3, 1, 1)).astype(np.float32))
    return (pictures - 128) * float(rng.uniform(0.75, 1.25)) + 128 + float(rng.uniform(-20, 20)) + colour
