"""A face drawn at any size: the motion that latents carry moves the pixels of the picture itself.

The autoencoder decides motion on its own small grid; here its flow is enlarged and applied to the picture at the size of the
video, so skin, hair and eyes stay as sharp as they were given. Only pixels that the face may move are drawn, all others are the
picture's to the bit. Not part of the paper, whose autoencoder decodes pixels (section 3).

Shapes: T frames, H x W the picture, h x w the part of it that is drawn, g the side of the flow's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .tiny import Motion, TinyDecoderState, TinyVAE

Box = tuple[float, float, float, float]
REACH = 0.12  # of the crop's side: from how far away a pixel may come
HALF_PIXEL = (1.0, -5.0, 20.0, 20.0, -5.0, 1.0)  # a half pixel's value from its six neighbours, over 32 (H.264's)
LEAST_PAINT = 0.02  # share below which paint is not worth drawing
CRISP = 2.2  # the paint's share was learned at 128 pixels: its edge is made steeper before it is enlarged


@dataclass(frozen=True, kw_only=True)
class FaceView:
    """What a face is drawn on: a picture (H, W, 3) uint8 and where in it the crop lies that the model animates.

    `box` (x0, y0, x1, y1) counts the picture's pixel edges, it may be fractional and go beyond the picture. `landmarks` (468, 3)
    are in the picture's pixels. `share` (n, n) in 0..1 over the box: how much of the motion counts there, 0 at its edge.
    """

    picture: np.ndarray
    box: Box
    landmarks: np.ndarray
    share: np.ndarray


class FaceRenderer:
    """One face on one picture: everything that depends on these alone, prepared once."""

    def __init__(self, vae: TinyVAE, view: FaceView, reference: Tensor) -> None:
        """`reference` (3, 128, 128) in 0..1 is the portrait as the autoencoder sees it, where it computes."""
        self._vae, self._reference, self._view = vae, reference, view
        grid = reference.shape[-1] // 2
        device = reference.device
        self.share = F.interpolate(
            torch.from_numpy(np.ascontiguousarray(view.share, np.float32))[None, None], size=(grid, grid), mode="area")[0, 0].to(device)
        self.rect = _moving_rect(self.share.cpu().numpy(), view)
        x0, y0, x1, y1 = self.rect
        side = view.box[2] - view.box[0], view.box[3] - view.box[1]
        self._across = _enlarging(grid, x0, x1, view.box[0], side[0]).to(device)
        self._down = _enlarging(grid, y0, y1, view.box[1], side[1]).to(device)
        room = [round(REACH * s) for s in side]
        height, width = view.picture.shape[:2]
        left, top, right, bottom = max(0, x0 - room[0]), max(0, y0 - room[1]), min(width, x1 + room[0]), min(height, y1 + room[1])
        source = torch.from_numpy(np.ascontiguousarray(view.picture[top:bottom, left:right])).permute(2, 0, 1)[None].float()
        self._source = _twice(source.to(device))
        self._where = torch.stack(torch.meshgrid(
            _normalised(x0 - left, x1 - left, right - left), _normalised(y0 - top, y1 - top, bottom - top), indexing="xy"), -1).to(device)
        # the flow counts halves of the crop's side, grid_sample halves of the source's
        self._scale = torch.tensor([side[0] / max(1, right - left - 1), side[1] / max(1, bottom - top - 1)], device=device)

    def open(self) -> TinyDecoderState:
        """State before the first latent."""
        return self._vae.open_decoder(self._reference)

    def __call__(self, latents: Tensor, state: TinyDecoderState) -> tuple[np.ndarray, TinyDecoderState]:
        """Frames (T, H, W, 3) uint8 of the next latents (1, C, F, h, w), and the state after them."""
        motion, state = self._vae.motion(latents, state)
        part = self._drawn(motion).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        x0, y0, x1, y1 = self.rect
        frames = np.broadcast_to(self._view.picture, (len(part), *self._view.picture.shape)).copy()
        frames[:, y0:y1, x0:x1] = part.cpu().numpy()
        return frames, state

    def _drawn(self, motion: Motion) -> Tensor:
        """The part that moves (T, 3, h, w), 0..255."""
        flow = self._down @ (motion.flow * self.share) @ self._across.T  # (T, 2, h, w)
        at = self._where + flow.permute(0, 2, 3, 1) * self._scale
        warped = F.grid_sample(
            self._source.expand(len(at), -1, -1, -1), at, mode="bilinear", padding_mode="border", align_corners=True)
        return self._painted(warped, motion.paint)

    def _painted(self, warped: Tensor, paint: Tensor) -> Tensor:
        """The mouth's inside over it, as the autoencoder paints it at its own size."""
        paint = torch.sigmoid(F.pixel_shuffle(paint, 2))
        share = F.interpolate(self.share[None, None], size=paint.shape[-2:], mode="bilinear", align_corners=False)
        over = ((paint[:, 3:] - 0.5) * CRISP + 0.5).clamp(0, 1) * share
        rows, columns = (np.flatnonzero((over > LEAST_PAINT).amax((0, 1)).any(axis).cpu().numpy()) for axis in (1, 0))
        if not len(rows):
            return warped
        (x0, across), (y0, down) = (
            self._band(int(cells[0]), int(cells[-1]) + 1, over.shape[-1], axis) for cells, axis in ((columns, 0), (rows, 1)))
        colour, over = (down @ t @ across.T for t in (paint[:, :3] * 255, over))
        warped[:, :, y0 : y0 + len(down), x0 : x0 + len(across)].lerp_(colour, over.clamp(0, 1))
        return warped

    def _band(self, first: int, last: int, count: int, axis: int) -> tuple[int, Tensor]:
        """Where in the drawn part the cells first..last of `count` over the box begin, and the weights that enlarge them there."""
        begin, extent = self._view.box[axis], self._view.box[axis + 2] - self._view.box[axis]
        low, high = (round(begin + cell * extent / count) for cell in (first - 1, last + 1))
        low, high = max(low, self.rect[axis]), max(low, min(high, self.rect[axis + 2]))
        return low - self.rect[axis], _enlarging(count, low, high, begin, extent).to(self.share)


def _moving_rect(share: np.ndarray, view: FaceView) -> tuple[int, int, int, int]:
    """The picture's pixels (x0, y0, x1, y1) in which something may move: a grid point reaches two cells far."""
    grid = len(share)
    height, width = view.picture.shape[:2]
    rows, columns = (np.flatnonzero((share > 0).any(axis)) for axis in (1, 0))
    x0, y0, x1, y1 = view.box
    kx, ky = (x1 - x0) / grid, (y1 - y0) / grid
    left, right = (float(x0 + (c + 0.5 + d) * kx) for c, d in ((columns[0], -2), (columns[-1], 2)))
    top, bottom = (float(y0 + (c + 0.5 + d) * ky) for c, d in ((rows[0], -2), (rows[-1], 2)))
    return max(0, int(np.floor(left))), max(0, int(np.floor(top))), min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))


def _enlarging(grid: int, first: int, last: int, begin: float, extent: float) -> Tensor:
    """(last - first, grid): weights of the values at the centres of `grid` cells, from `begin` on over `extent`, in each pixel.

    Catmull-Rom: it passes through the values, and its slope has no steps that would show on skin.
    """
    at = (np.arange(first, last) + 0.5 - begin) / extent * grid - 0.5
    low = np.floor(at).astype(int)
    t = at - low
    taps = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]) / 2
    weights = np.zeros((last - first, grid))
    for k, tap in enumerate(taps):
        np.add.at(weights, (np.arange(len(at)), np.clip(low + k - 1, 0, grid - 1)), tap)
    return torch.from_numpy(weights.astype(np.float32))


def _normalised(first: int, last: int, count: int) -> Tensor:
    """Places of pixels first..last among `count`, -1 the first one's centre, 1 the last one's."""
    return torch.arange(first, last).float() / max(1, count - 1) * 2 - 1


def _twice(picture: Tensor) -> Tensor:
    """(1, 3, 2h - 1, 2w - 1) of (1, 3, h, w): its pixels and the points half-way between them.

    Read by linear interpolation it is nearly as sharp between pixels as at them, and exact at them.
    """
    return _twice_along(_twice_along(picture, -1), -2)


def _twice_along(picture: Tensor, axis: int) -> Tensor:
    lines = picture.movedim(axis, -1)
    kernel = lines.new_tensor(HALF_PIXEL).view(1, 1, -1) / 32
    flat = F.pad(lines.flatten(0, -2)[:, None], (2, 2), mode="replicate")
    between = F.conv1d(flat, kernel)[:, 0].view(*lines.shape[:-1], lines.shape[-1] - 1)
    out = lines.new_empty(*lines.shape[:-1], 2 * lines.shape[-1] - 1)
    out[..., ::2], out[..., 1::2] = lines, between
    return out.movedim(-1, axis).contiguous()


def can_render(vae: Any) -> bool:
    """Whether an autoencoder gives motion, which can be drawn at any size."""
    return isinstance(vae, TinyVAE)
