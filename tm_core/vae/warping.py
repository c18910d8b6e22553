"""A picture moved by a coarse flow, at any size: straight into bytes on a processor, by torch anywhere else.

On a processor one pass over the pixels that move enlarges the flow, reads the picture where it points and writes the byte: a
third of the time of torch's operations one after the other. It is compiled by numba, which librosa brings along; without
numba torch does it there too. Not part of the paper.

Shapes: T frames, H x W the picture, h x w the part of it that is drawn, g the side of the flow's grid. Flow counts halves of the
crop's side, `reach` is the pixels of its unit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

PixelBox = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two beyond it
STILL = 1 / 64  # of a pixel: what moves less stays as it is
ONE = 256  # parts of the way from one point of a texture to the next
RED_BLUE, GREEN = 0xFF00FF, 0xFF00  # of a colour 0x00BBGGRR, two of which are mixed by one product
# A half pixel's value from its six neighbours, over 32. Lobes larger than H.264's (1, -5, 20): linear reading between these and the
# pixels themselves blurs, and over all fractions of a pixel both make up for each other.
HALF_PIXEL = (3.0, -10.5, 23.5, 23.5, -10.5, 3.0)
AT_ONCE = 2**21  # numbers that torch draws at a time: larger tensors are new memory each time, which costs more than the drawing


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """Which four cells of a line of the grid make up each of n pixels from `first` on, and with which weights."""

    first: int
    cells: np.ndarray  # (n, 4) int32
    weights: np.ndarray  # (n, 4) float32

    @classmethod
    def of(cls, grid: int, first: int, last: int, begin: float, extent: float) -> Enlargement:
        """Pixels first..last, where the centres of `grid` cells spread from pixel edge `begin` on over `extent`.

        Catmull-Rom: it passes through the values, and its slope has no steps that would show on skin.
        """
        at = (np.arange(first, last) + 0.5 - begin) / extent * grid - 0.5
        low = np.floor(at).astype(int)
        t = at - low
        taps = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], -1) / 2
        cells = np.clip(low[:, None] + np.arange(-1, 3), 0, grid - 1)
        return cls(first=first, cells=cells.astype(np.int32), weights=taps.astype(np.float32))

    def cut(self, first: int, last: int) -> Enlargement:
        """The pixels first..last alone."""
        part = slice(first - self.first, last - self.first)
        return Enlargement(first=first, cells=self.cells[part], weights=self.weights[part])

    def matrix(self, grid: int) -> Tensor:
        """(n, grid) weights of every cell."""
        dense = np.zeros((len(self.cells), grid), np.float32)
        for k in range(4):
            np.add.at(dense, (np.arange(len(dense)), self.cells[:, k]), self.weights[:, k])
        return torch.from_numpy(dense)


@dataclass(frozen=True, kw_only=True)
class Texture:
    """Part of a picture, its pixels and the points half-way between them: (1, 3, 2h - 1, 2w - 1), or (2h - 1, 2w - 1) int32 0x00BBGGRR.

    Read by linear interpolation it is nearly as sharp between pixels as at them, and exact at them.
    """

    points: Any
    corner: tuple[int, int]  # x, y of the picture's pixel at which it begins


class FaceWarp(Protocol):
    """Some frames that are being drawn; boxes count the picture's pixels."""

    def warp(self, texture: Texture, box: PixelBox, frame: int | None = None) -> None:
        """Draw a box of one frame or of all of them anew, fetched from `texture` where the flow points."""

    def lay(self, colour: Tensor, share: Tensor, corner: tuple[int, int]) -> None:
        """Lay colours (T, 3, h, w) 0..255 over what is there, by a share (1 or T, 1, h, w) of them; `corner` is their first pixel."""

    def finish(self) -> None:
        """Everything is in the frames after it."""


@dataclass(frozen=True, kw_only=True)
class WarpPlan:
    """What warping one face needs to know of it: which pixels are drawn, and how the grid's flow is enlarged there."""

    rect: PixelBox
    grid: int
    columns: Enlargement
    rows: Enlargement
    reach: tuple[float, float]
    device: torch.device

    @classmethod
    def of(cls, rect: PixelBox, box: tuple[float, float, float, float], grid: int, device: torch.device) -> WarpPlan:
        """For pixels `rect` of a picture in which the crop that the model animates lies at `box`, fractional pixel edges."""
        columns, rows = (
            Enlargement.of(grid, rect[k], rect[k + 2], box[k], box[k + 2] - box[k]) for k in (0, 1))
        return cls(
            rect=rect, grid=grid, columns=columns, rows=rows, reach=((box[2] - box[0]) / 2, (box[3] - box[1]) / 2), device=device)

    @property
    def writes_bytes(self) -> bool:
        """Whether the compiled pass is used."""
        return self.device.type == "cpu" and compiled() is not None

    @property
    def at_once(self) -> int:
        """How many frames are best drawn together."""
        x0, y0, x1, y1 = self.rect
        return 2**16 if self.writes_bytes else max(1, AT_ONCE // (3 * max(1, (y1 - y0) * (x1 - x0))))

    def texture(self, picture: np.ndarray, corner: tuple[int, int]) -> Texture:
        """Of part of a picture (h, w, 3) uint8 that begins at the pixel `corner`."""
        pixels = torch.tensor(picture).permute(2, 0, 1)[None].float()
        points: Any = _twice_along(_twice_along(pixels.to(self.device), -1), -2)
        if self.writes_bytes:
            red, green, blue = points[0].round_().clamp_(0, 255).to(torch.int32)
            points = np.ascontiguousarray((red | green << 8 | blue << 16).numpy())
        return Texture(points=points, corner=corner)

    def open(self, frames: np.ndarray, flow: Tensor) -> FaceWarp:
        """Frames (T, H, W, 3) uint8 that show the picture, to be moved in place by flow (T, 2, g, g)."""
        return _ByteWarp(self, frames, flow) if self.writes_bytes else _TensorWarp(self, frames, flow)


class _TensorWarp:
    """By torch, in numbers 0..255 until the end."""

    def __init__(self, plan: WarpPlan, frames: np.ndarray, flow: Tensor) -> None:
        self._plan, self._frames = plan, frames
        down, across = (line.matrix(plan.grid).to(flow) for line in (plan.rows, plan.columns))
        self._away = down @ (flow * flow.new_tensor(plan.reach).view(2, 1, 1)) @ across.T
        x0, y0, x1, y1 = plan.rect
        self._drawn = flow.new_zeros(len(flow), 3, y1 - y0, x1 - x0)

    def warp(self, texture: Texture, box: PixelBox, frame: int | None = None) -> None:
        some = slice(None) if frame is None else slice(frame, frame + 1)
        rows, columns = (slice(box[k] - self._plan.rect[k], box[k + 2] - self._plan.rect[k]) for k in (1, 0))
        away = self._away[some, :, rows, columns]
        x, y = (torch.arange(box[k], box[k + 2], device=away.device) - texture.corner[k] for k in (0, 1))
        at = torch.stack([away[:, 0] + x, away[:, 1] + y[:, None]], -1)
        extent = at.new_tensor([max(1, n - 1) / 4 for n in reversed(texture.points.shape[-2:])])
        source = texture.points.to(at).expand(len(at), -1, -1, -1)
        self._drawn[some, :, rows, columns] = F.grid_sample(
            source, at / extent - 1, mode="bilinear", padding_mode="border", align_corners=True)

    def lay(self, colour: Tensor, share: Tensor, corner: tuple[int, int]) -> None:
        x, y = corner[0] - self._plan.rect[0], corner[1] - self._plan.rect[1]
        self._drawn[:, :, y : y + colour.shape[-2], x : x + colour.shape[-1]].lerp_(colour, share)

    def finish(self) -> None:
        x0, y0, x1, y1 = self._plan.rect
        shown = self._drawn.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        self._frames[:, y0:y1, x0:x1] = shown.cpu().numpy()


class _ByteWarp:
    """By the compiled pass; pixels that do not move are left alone."""

    def __init__(self, plan: WarpPlan, frames: np.ndarray, flow: Tensor) -> None:
        self._plan, self._frames = plan, frames
        self._flow = np.ascontiguousarray(flow.numpy(), np.float32)

    def warp(self, texture: Texture, box: PixelBox, frame: int | None = None) -> None:
        plan, some = self._plan, slice(None) if frame is None else slice(frame, frame + 1)
        columns, rows = plan.columns.cut(box[0], box[2]), plan.rows.cut(box[1], box[3])
        places, whole = np.asarray([*texture.corner, *plan.reach], np.float32), box == plan.rect
        compiled()(
            self._frames[some], texture.points, self._flow[some], columns.first, columns.cells, columns.weights, rows.first, rows.cells,
            rows.weights, places, np.float32(STILL if whole else -1))

    def lay(self, colour: Tensor, share: Tensor, corner: tuple[int, int]) -> None:
        part = self._frames[:, corner[1] : corner[1] + colour.shape[-2], corner[0] : corner[0] + colour.shape[-1]]
        below = torch.from_numpy(part).permute(0, 3, 1, 2).float()
        part[...] = below.lerp_(colour, share).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def finish(self) -> None:
        pass


def machine_code(work: Callable[..., None], *example: Any) -> Any:
    """A function of arrays as machine code, kept on disk once it was made; None where numba is not to be had.

    It is made now, from arguments of the kinds that will be given, and not when the first frames are waited for.
    """
    try:
        from numba import njit
    except Exception as e:  # numba refuses versions of numpy by errors of several kinds
        log.info("numba is not to be had (%s): torch draws faces, more slowly", e)
        return None
    # what is kept on disk names the function's module; in a host this one has another name, and numpy has the same everywhere
    work.__module__ = "numpy"
    made = njit(nogil=True, fastmath=True, cache=True)(work)
    made(*example)
    return made


@lru_cache(maxsize=1)
def compiled() -> Any:
    """The pass over the pixels, or None."""
    line, numbers = Enlargement.of(2, 0, 1, 0, 1), np.zeros((1, 2, 2, 2), np.float32)
    return machine_code(
        _draw, np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 2), np.int32), numbers, 0, line.cells, line.weights, 0, line.cells,
        line.weights, numbers[0, 0, 0].repeat(2), np.float32(STILL))


def _draw(
    frames: Any, points: Any, flow: Any, first_x: int, cells_x: Any, weights_x: Any, first_y: int, cells_y: Any, weights_y: Any,
    places: Any, still: float,
) -> None:
    # narrow and unsigned numbers throughout: half of the time is arithmetic, and an index that may be negative is looked at twice
    grid, width = flow.shape[3], cells_x.shape[0]
    last_x, last_y = np.float32(points.shape[1] - 1), np.float32(points.shape[0] - 1)
    most_i, most_j = np.int32(points.shape[1] - 2), np.int32(points.shape[0] - 2)
    zero, two, parts, eight = np.float32(0), np.float32(2), np.float32(ONE), np.uint32(8)
    red_blue, green, round_both, round_one = np.uint32(0xFF00FF), np.uint32(0xFF), np.uint32(0x800080), np.uint32(0x80)
    line = np.empty((2, grid), np.float32)
    at_x, at_y, moves = np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.uint8)
    flat, below, beside = points.reshape(-1), np.uintp(points.shape[1]), np.uintp(1)
    for t in range(flow.shape[0]):
        for row in range(cells_y.shape[0]):
            most = zero
            for axis in range(2):
                a, b, c, d = cells_y[row, 0], cells_y[row, 1], cells_y[row, 2], cells_y[row, 3]
                wa, wb, wc, wd = weights_y[row, 0], weights_y[row, 1], weights_y[row, 2], weights_y[row, 3]
                for k in range(grid):
                    value = wa * flow[t, axis, a, k] + wb * flow[t, axis, b, k] + wc * flow[t, axis, c, k] + wd * flow[t, axis, d, k]
                    line[axis, k] = value * places[2 + axis]
                    most = max(most, abs(line[axis, k]))
            if most < still:
                continue
            base_x, base_y = np.float32(first_x) - places[0], np.float32(first_y + row) - places[1]
            for k in range(width):
                a, b, c, d = np.uintp(cells_x[k, 0]), np.uintp(cells_x[k, 1]), np.uintp(cells_x[k, 2]), np.uintp(cells_x[k, 3])
                wa, wb, wc, wd = weights_x[k, 0], weights_x[k, 1], weights_x[k, 2], weights_x[k, 3]
                away_x = wa * line[0, a] + wb * line[0, b] + wc * line[0, c] + wd * line[0, d]
                away_y = wa * line[1, a] + wb * line[1, b] + wc * line[1, c] + wd * line[1, d]
                moves[k] = max(abs(away_x), abs(away_y)) >= still
                at_x[k] = np.int32(min(max(two * (base_x + np.float32(k) + away_x), zero), last_x) * parts)
                at_y[k] = np.int32(min(max(two * (base_y + away_y), zero), last_y) * parts)
            out = frames[t, first_y + row]
            for k in range(width):
                if not moves[k]:
                    continue
                i, j = min(at_x[k] >> 8, most_i), min(at_y[k] >> 8, most_j)
                u, v = np.uint32(at_x[k] - (i << 8)), np.uint32(at_y[k] - (j << 8))
                both = np.uint32((u * v) >> eight)
                right, down = np.uint32(u - both), np.uint32(v - both)
                here = np.uint32(np.uint32(ONE) - u - down)
                at = np.uintp(j) * below + np.uintp(i)
                p00, p01 = np.uint32(flat[at]), np.uint32(flat[at + beside])
                p10, p11 = np.uint32(flat[at + below]), np.uint32(flat[at + below + beside])
                outer = np.uint32(
                    here * (p00 & red_blue) + right * (p01 & red_blue) + down * (p10 & red_blue) + both * (p11 & red_blue) + round_both)
                middle = np.uint32(
                    here * ((p00 >> eight) & green) + right * ((p01 >> eight) & green) + down * ((p10 >> eight) & green)
                    + both * ((p11 >> eight) & green) + round_one)
                place = np.uintp(first_x + k)
                out[place, np.uintp(0)] = np.uint8(outer >> eight)
                out[place, np.uintp(1)] = np.uint8(middle >> eight)
                out[place, np.uintp(2)] = np.uint8(outer >> np.uint32(24))


def _twice_along(picture: Tensor, axis: int) -> Tensor:
    """Twice as fine along an axis, less one: the points between pixels of (..., n, ...)."""
    lines = picture.movedim(axis, -1)
    kernel = lines.new_tensor(HALF_PIXEL).view(1, 1, -1) / 32
    flat = F.pad(lines.flatten(0, -2)[:, None], (2, 2), mode="replicate")
    between = F.conv1d(flat, kernel)[:, 0].view(*lines.shape[:-1], lines.shape[-1] - 1)
    out = lines.new_empty(*lines.shape[:-1], 2 * lines.shape[-1] - 1)
    out[..., ::2], out[..., 1::2] = lines, between
    return out.movedim(-1, axis).contiguous()
