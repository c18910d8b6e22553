"""The mouth's pixels as machine code: what mouth_drawing does by torch, straight into bytes on a processor, in a fifth of the time.

One pass over the box: contours and flows are read from their fine maps, the picture where the lips' flows point, teeth and jaw where
the lips have parted. The picture's pixels are read as warping reads them. Not part of the paper.
Shapes: T frames, h x w pixels of the drawn part, GRID = (24, 32) rows and columns of the fields, twice as many of the fine maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .mouth_drawing import JAW_SPAN, SLIT, SOFT, MouthFields, MouthState, finer
from .mouth_geometry import TALL, TOOTH_SPAN, lip_distances
from .warping import GREEN, ONE, RED_BLUE, Texture, machine_code

LEAST_SHARE = 1 / 512  # of the mouth in a pixel, below which it is left as it is
_LIGHT, _LIT = 0.03, 0.55  # shade() of mouth_geometry: face heights below the upper lip to full light, and what there is at the lip


@dataclass(frozen=True, kw_only=True)
class MouthRaster:
    """A mouth of one view, ready to be drawn into its frames."""

    texture: Texture  # the picture round the face
    corner: tuple[int, int]  # x, y of the first drawn pixel in the picture
    share: np.ndarray  # (h, w) of the mouth over the warped face
    points: np.ndarray  # (h, w, 2) the drawn pixels in box units
    to_pixels: np.ndarray  # (3, 2) box units across, down and centre to pixels of the texture's picture
    state: MouthState
    teeth: np.ndarray  # (rows, columns, 4) 0..255, share 0..1
    jaw: np.ndarray  # (rows, columns, 3) 0..255
    own: np.ndarray  # (2, rows, columns) distances from the portrait's own lips, pixels
    numbers: np.ndarray  # what the pass needs of the geometry

    @classmethod
    def of(
        cls, state: MouthState, texture: Texture, corner: tuple[int, int], share: np.ndarray, cut: tuple[slice, slice],
        square: tuple[int, int, int],
    ) -> MouthRaster:
        """The rows and columns `cut` of a mouth's rectangle, which begin at the picture's pixel `corner`; the crop is at `square`."""
        x0, y0, side = square
        to_pixels = state.geometry.box[0].double().numpy() * side / 2
        to_pixels[2] += np.array([x0, y0]) + side / 2 - 0.5
        geometry = state.geometry
        numbers = [
            *geometry.skull[0].tolist(), float(geometry.half[0]) * 1.1, TOOTH_SPAN / 2 * float(geometry.face[0]), float(geometry.face[0]),
            state.reach, float(state.parted), SLIT[0], SLIT[1], 2 * SOFT, JAW_SPAN / 2, _LIGHT, _LIT, TALL]
        teeth, jaw = (t[0].permute(1, 2, 0).numpy() * np.float32(255) for t in state.textures)
        teeth[..., 3] /= 255
        return cls(
            texture=texture, corner=corner, share=np.ascontiguousarray(share, np.float32),
            points=np.ascontiguousarray(state.points[0, cut[0], cut[1]].numpy(), np.float32), to_pixels=to_pixels.astype(np.float32),
            state=state, teeth=np.ascontiguousarray(teeth), jaw=np.ascontiguousarray(jaw),
            own=np.ascontiguousarray(finer(lip_distances(state.share.lips) * state.reach)[0].numpy()),
            numbers=np.asarray(numbers, np.float32))

    def draw(self, frames: np.ndarray, fields: MouthFields) -> None:
        """Over the warped faces in frames (T, H, W, 3) uint8."""
        axes = torch.from_numpy(self.to_pixels[:2])
        flows = torch.einsum("tfchw,cd->tfdhw", fields.flows.unflatten(1, (2, 2)), axes).flatten(1, 2)
        maps = finer(torch.cat([flows, lip_distances(fields.lips) * self.state.reach], 1)).permute(0, 2, 3, 1).contiguous().numpy()
        turn = fields.skull[:, :1]
        skull = torch.cat([turn.cos(), turn.sin(), fields.skull[:, 1:], fields.light], 1)
        compiled_mouth()(
            frames, self.texture.points, np.asarray(self.texture.corner, np.float32), self.corner[0], self.corner[1], self.share,
            self.points, maps, self.own, skull.numpy(), self.teeth, self.jaw, self.to_pixels, self.numbers)


@lru_cache(maxsize=1)
def compiled_mouth() -> Any:
    """The pass over the pixels; only where warping.compiled() is to be had."""
    zeros = np.zeros
    few = zeros((1, 1, 2), np.float32), zeros((1, 4, 4, 6), np.float32), zeros((2, 4, 4), np.float32), zeros((1, 5), np.float32)
    return machine_code(
        _draw_mouth, zeros((1, 1, 1, 3), np.uint8), zeros((3, 3), np.int32), zeros(2, np.float32), 0, 0, zeros((1, 1), np.float32), *few,
        zeros((2, 2, 4), np.float32), zeros((2, 2, 3), np.float32), zeros((3, 2), np.float32), np.ones(14, np.float32))


def _draw_mouth(
    frames: Any, points: Any, corner: Any, first_x: int, first_y: int, share: Any, places: Any, maps: Any, own: Any, skulls: Any,
    teeth: Any, jaw: Any, to_pixels: Any, numbers: Any,
) -> None:
    gums_x, gums_y, wide, tall, face, reach = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    parted, shut, slit, soft = numbers[6] > 0, numbers[7], numbers[8] - numbers[7], numbers[9]
    jaw_tall, lit, least, box_tall = numbers[10] * face, numbers[11], numbers[12], numbers[13]
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    rows, columns = maps.shape[1], maps.shape[2]
    last_x, last_y = np.float32(points.shape[1] - 1), np.float32(points.shape[0] - 1)
    for t in range(maps.shape[0]):
        cos, sin, shift_x, shift_y, light = skulls[t, 0], skulls[t, 1], skulls[t, 2], skulls[t, 3], skulls[t, 4]
        for row in range(share.shape[0]):
            for column in range(share.shape[1]):
                over = share[row, column]
                if over < LEAST_SHARE:
                    continue
                x, y = places[row, column, 0], places[row, column, 1]
                # the fine maps here
                at_x = min(max((x + one) * half * columns - half, zero), np.float32(columns - 1))
                at_y = min(max((y / box_tall + one) * half * rows - half, zero), np.float32(rows - 1))
                i, j = min(int(at_x), columns - 2), min(int(at_y), rows - 2)
                u, v = at_x - i, at_y - j
                w11 = u * v
                w10, w01 = u - w11, v - w11
                w00 = one - u - v + w11
                top = w00 * maps[t, j, i, 4] + w10 * maps[t, j, i + 1, 4] + w01 * maps[t, j + 1, i, 4] + w11 * maps[t, j + 1, i + 1, 4]
                bottom = w00 * maps[t, j, i, 5] + w10 * maps[t, j, i + 1, 5] + w01 * maps[t, j + 1, i, 5] + w11 * maps[t, j + 1, i + 1, 5]
                k = 0 if bottom > top else 2  # between both flows lies what the lips have left
                source_x = (
                    w00 * maps[t, j, i, k] + w10 * maps[t, j, i + 1, k] + w01 * maps[t, j + 1, i, k] + w11 * maps[t, j + 1, i + 1, k]
                    + first_x + column)
                source_y = (
                    w00 * maps[t, j, i, k + 1] + w10 * maps[t, j, i + 1, k + 1] + w01 * maps[t, j + 1, i, k + 1]
                    + w11 * maps[t, j + 1, i + 1, k + 1] + first_y + row)
                gap = min(max(((top + bottom) / reach - shut) / slit, zero), one)
                inside = min(max(min(top, bottom) / soft + half, zero), one) * gap
                red = green = blue = zero
                if inside > zero:
                    away_x, away_y = x - gums_x - shift_x, y - gums_y - shift_y
                    rest_x, rest_y = cos * away_x + sin * away_y, cos * away_y - sin * away_x  # from the gums, on the skull at rest
                    across = rest_x / wide
                    at_x = min(max((across + one) * half * teeth.shape[1] - half, zero), np.float32(teeth.shape[1] - 1))
                    at_y = min(max(rest_y / tall * half * teeth.shape[0] - half, zero), np.float32(teeth.shape[0] - 1))
                    i, j = min(int(at_x), teeth.shape[1] - 2), min(int(at_y), teeth.shape[0] - 2)
                    u, v = at_x - i, at_y - j
                    risen = min(max(bottom / reach / jaw_tall * half * jaw.shape[0] - half, zero), np.float32(jaw.shape[0] - 1))
                    m = min(int(risen), jaw.shape[0] - 2)
                    s = risen - m
                    row_0, row_1 = one - v, v
                    tooth = (
                        (one - u) * (row_0 * teeth[j, i, 3] + row_1 * teeth[j + 1, i, 3])
                        + u * (row_0 * teeth[j, i + 1, 3] + row_1 * teeth[j + 1, i + 1, 3]))
                    bright = (min(max(top / reach / face / lit, zero), one) * (one - least) + least) * light
                    for channel in range(3):
                        white = (
                            (one - u) * (row_0 * teeth[j, i, channel] + row_1 * teeth[j + 1, i, channel])
                            + u * (row_0 * teeth[j, i + 1, channel] + row_1 * teeth[j + 1, i + 1, channel]))
                        dark = (
                            (one - u) * ((one - s) * jaw[m, i, channel] + s * jaw[m + 1, i, channel])
                            + u * ((one - s) * jaw[m, i + 1, channel] + s * jaw[m + 1, i + 1, channel]))
                        colour = (dark + (white - dark) * tooth) * bright
                        if channel == 0:
                            red = colour
                        elif channel == 1:
                            green = colour
                        else:
                            blue = colour
                    if parted:  # what the portrait shows between its own lips, where its skull has gone
                        home_x, home_y = rest_x + gums_x, rest_y + gums_y
                        at_x = min(max((home_x + one) * half * columns - half, zero), np.float32(columns - 1))
                        at_y = min(max((home_y / box_tall + one) * half * rows - half, zero), np.float32(rows - 1))
                        i, j = min(int(at_x), columns - 2), min(int(at_y), rows - 2)
                        u, v = at_x - i, at_y - j
                        w11 = u * v
                        w10, w01 = u - w11, v - w11
                        w00 = one - u - v + w11
                        above = w00 * own[0, j, i] + w10 * own[0, j, i + 1] + w01 * own[0, j + 1, i] + w11 * own[0, j + 1, i + 1]
                        below = w00 * own[1, j, i] + w10 * own[1, j, i + 1] + w01 * own[1, j + 1, i] + w11 * own[1, j + 1, i + 1]
                        shown = min(max(((above + below) / reach - shut) / slit, zero), one)
                        shown = min(max(min(above, below) / soft + half, zero), one) * shown
                        took = min(shown, inside)
                        where_x = home_x * to_pixels[0, 0] + home_y * to_pixels[1, 0] + to_pixels[2, 0]
                        where_y = home_x * to_pixels[0, 1] + home_y * to_pixels[1, 1] + to_pixels[2, 1]
                        source_x += (where_x - source_x) * took
                        source_y += (where_y - source_y) * took
                        inside = max(inside - shown, zero)
                at_x = min(max(2 * (source_x - corner[0]), zero), last_x)
                at_y = min(max(2 * (source_y - corner[1]), zero), last_y)
                i, j = min(int(at_x), points.shape[1] - 2), min(int(at_y), points.shape[0] - 2)
                right, down = int((at_x - i) * ONE), int((at_y - j) * ONE)
                both = (right * down) // ONE
                right, down = right - both, down - both
                here = ONE - right - down - both
                p00, p01, p10, p11 = points[j, i], points[j, i + 1], points[j + 1, i], points[j + 1, i + 1]
                outer = here * (p00 & RED_BLUE) + right * (p01 & RED_BLUE) + down * (p10 & RED_BLUE) + both * (p11 & RED_BLUE)
                middle = here * (p00 & GREEN) + right * (p01 & GREEN) + down * (p10 & GREEN) + both * (p11 & GREEN)
                for channel in range(3):
                    mixed = outer & 0xFFFF if channel == 0 else (middle >> 8 if channel == 1 else outer >> 16)
                    colour = np.float32(mixed) / ONE
                    paint = red if channel == 0 else (green if channel == 1 else blue)
                    colour += (min(max(paint, zero), np.float32(255)) - colour) * inside
                    old = np.float32(frames[t, first_y + row, first_x + column, channel])
                    frames[t, first_y + row, first_x + column, channel] = int(old + (colour - old) * over + half)
