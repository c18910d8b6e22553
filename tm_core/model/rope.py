"""Wan's three-axis rotary position embedding, in real arithmetic, with free temporal positions.

The rotation is applied when keys are read, so a cached key can stand at another position in every chunk.
`stream_positions` is the inference rule the paper leaves open: true indices while they fit the trained
range, then the anchor at its start and the last two chunks at its end.

Shapes: B batch, L tokens = F h w, H heads, E head width.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

THETA = 10000.0


def stream_positions(chunk: int, chunk_latents: int, max_latents: int) -> tuple[list[int], list[int], list[int]]:
    """Temporal positions of the anchor c0, of chunk - 1 and of `chunk`."""
    n = chunk_latents
    last = min(chunk, max_latents // n - 1)  # a full range holds max_latents // n chunks
    anchor = list(range(n))
    previous = list(range((last - 1) * n, last * n)) if last > 0 else anchor
    return anchor, previous, list(range(last * n, (last + 1) * n))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Angles per unit of position on each axis; Wan gives time what height and width leave over."""
    space = 2 * (head_dim // 6)
    axes = (head_dim - 2 * space, space, space)
    a, b, c = (1.0 / THETA ** (torch.arange(0, d, 2, dtype=torch.float64) / d) for d in axes)
    return a, b, c


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # a table made while sampling may be read while training
def _table(times: tuple[float, ...], height: int, width: int, head_dim: int, device: str) -> Tensor:
    ft, fh, fw = _frequencies(head_dim)
    t = torch.tensor(times, dtype=torch.float64)
    frames = len(times)
    parts = (
        torch.outer(t, ft)[:, None, None].expand(frames, height, width, -1),
        torch.outer(torch.arange(height, dtype=torch.float64), fh)[None, :, None].expand(frames, height, width, -1),
        torch.outer(torch.arange(width, dtype=torch.float64), fw)[None, None].expand(frames, height, width, -1),
    )
    angle = torch.cat(parts, -1).reshape(frames * height * width, 1, -1)
    return torch.stack([angle.cos(), angle.sin()]).float().to(device)


def rope_table(times: list[float] | list[int], grid: tuple[int, int], head_dim: int, device: torch.device) -> Tensor:
    """(2, L, 1, E / 2) cosines and sines of latents at `times` on a grid (h, w) of tokens."""
    return _table(tuple(float(t) for t in times), *grid, head_dim, str(device))


def rotate(x_BLHE: Tensor, table: Tensor) -> Tensor:
    """x with each pair of channels turned by its angle."""
    cos, sin = table[0], table[1]
    even, odd = x_BLHE[..., 0::2], x_BLHE[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x_BLHE.dtype)
