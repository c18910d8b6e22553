"""ComfyUI's IMAGE and MASK against the engine's arrays.

IMAGE is (B, H, W, C) float in 0..1, in any precision, perhaps on a GPU; MASK is (B, H, W) or (H, W). The
engine takes (H, W, 3) uint8 and (H, W) float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...tm_core.errors import InputError


def picture_of(image: Tensor, field: str = "image") -> np.ndarray:
    """The one picture of an IMAGE as (H, W, 3) uint8; InputError for a batch."""
    if image.ndim != 4 or image.shape[0] != 1:
        raise InputError(field, f"{tuple(image.shape)}", "one picture is animated at a time", "pick one with Image From Batch")
    levels = image[0].detach().to("cpu", torch.float32).nan_to_num(0.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    return _three_channels(levels.numpy(), field)


def _three_channels(levels: np.ndarray, field: str) -> np.ndarray:
    channels = levels.shape[2]
    if channels == 1:
        return np.repeat(levels, 3, axis=2)
    if channels == 4:  # transparent parts become white, as in the command line
        alpha = levels[..., 3:].astype(np.float32) / 255.0
        flat: np.ndarray = np.round(levels[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
        return flat
    if channels != 3:
        raise InputError(field, f"{channels} channels", "a picture has 1, 3 or 4", "connect a colour image")
    return np.ascontiguousarray(levels)


def region_of(mask: Tensor) -> np.ndarray:
    """The one mask of a MASK as (H, W) float32 in 0..1; InputError for a batch."""
    planes = mask.reshape(-1, *mask.shape[-2:])
    if len(planes) != 1:
        raise InputError("mask", f"{len(planes)} masks", "one mask belongs to one face", "pick one of the batch")
    region: np.ndarray = planes[0].detach().to("cpu", torch.float32).nan_to_num(0.0).clamp(0.0, 1.0).numpy()
    return region


def image_of(frames: np.ndarray) -> Tensor:
    """(T, H, W, 3) uint8 as an IMAGE (T, H, W, 3) float32."""
    return torch.from_numpy(frames.astype(np.float32)).div_(255.0)


def mask_of(region: np.ndarray) -> Tensor:
    """(H, W) in 0..1 as a MASK (1, H, W)."""
    return torch.from_numpy(np.array(region, dtype=np.float32))[None]
