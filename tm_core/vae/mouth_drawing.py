"""A mouth drawn at output pixels from where its contours, flows and skull are: skin fetched from the portrait, teeth, jaw and dark between.

What a portrait has is in its MouthState; what a frame shows is MouthFields, which mouth_head tells. Where the lips are shut nothing is
painted. Not part of the paper. Non-goals: telling places, the rest of the face.
Shapes: B portraits, T frames, K basis elements, h x w pixels of the painted rectangle, GRID = (24, 32) rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .mouth_geometry import FEATHER, TALL, WIDER, MouthGeometry, at_rest, from_box, lip_distances, shade, tooth_place

SOFT = 0.5  # pixels to either side over which the contour fades
SLIT = (0.002, 0.012)  # box units of gap below which lips count as shut, from which they are open
JAW_SPAN = 0.12  # face heights that the jaw's texture reaches up from the lower lip


class PortraitShare(NamedTuple):
    """What of the network depends on the portrait alone."""

    still: Tensor  # (B, width, *GRID)
    flows: Tensor  # (B, K, 4, *GRID) basis of both flows
    curves: Tensor  # (B, K, 2, columns) basis of both contours
    lips: Tensor  # (B, 2, columns) contours at rest as the network sees them
    code: Tensor  # (B, hidden)
    skull_code: Tensor  # (B, 64)
    tint: Tensor  # (B, 6) colour of teeth, of the rest of the mouth


class MouthFields(NamedTuple):
    """Where everything is in T frames; box units."""

    lips: Tensor  # (T, 2, columns) heights of the inner contours
    flows: Tensor  # (T, 4, *GRID) offsets into the portrait: of the upper lip (x, y), of the lower
    skull: Tensor  # (T, 3) turn in radians, shift x and y since the portrait
    light: Tensor  # (T, 1) of the mouth's inside


@dataclass(frozen=True, kw_only=True)
class MouthState:
    """A portrait's mouth, ready to be drawn; in training every frame may have a portrait of its own."""

    where: tuple[int, int, int, int]  # x0, y0, x1, y1 of the painted rectangle, whole pixels
    geometry: MouthGeometry
    share: PortraitShare
    textures: tuple[Tensor, Tensor]  # (1, 4, *TEXTURE) colour and share of teeth, (1, 3, *TEXTURE) colour of the jaw's side
    parted: bool  # the portrait shows what is between its lips
    picture: Tensor  # (1, 3, h', w') the part of the picture that may be fetched
    part: Tensor  # (1, 3, 2) as MouthGeometry.box: from box coordinates to those of the part
    reach: float  # pixels of a box unit
    points: Tensor  # (1, h, w, 2) box coordinates of the rectangle's pixels
    base: Tensor  # (1, 2, h, w) the same pixels in the part
    weight: Tensor  # (1, 1, h, w)


def mouth_pixels(fields: MouthFields, state: MouthState) -> Tensor:
    """Pixels (T, 3, h, w) of `state.where`."""
    part = state.part[:, :2].expand(len(fields.flows), -1, -1)
    flows = torch.einsum("tfchw,tcd->tfdhw", fields.flows.unflatten(1, (2, 2)), part).flatten(1, 2)
    maps = finer(torch.cat([flows, lip_distances(fields.lips) * state.reach], 1))
    look = (state.points / state.points.new_tensor([1, TALL])).expand(len(maps), -1, -1, -1)
    at = F.grid_sample(maps, look, padding_mode="border", align_corners=False)
    top, bottom = at[:, 4:5], at[:, 5:]
    source = torch.where(bottom > top, at[:, :2], at[:, 2:4]).add_(state.base)  # between both flows lies what the lips have left
    share = opening(top, bottom, state.reach) * _between_corners(state)
    window = _bounds(share)
    if window is None:
        return _fetched(state, source).clamp(0, 1)
    paint, share_inside = _painted(fields, state, top, bottom, share, window, source)
    out = _fetched(state, source)
    inside = (..., slice(window[1], window[3]), slice(window[0], window[2]))
    out[inside] += (paint - out[inside]) * share_inside
    return out.clamp(0, 1)


def _painted(
    fields: MouthFields, state: MouthState, top: Tensor, bottom: Tensor, share: Tensor, window: tuple[int, int, int, int],
    source: Tensor,
) -> tuple[Tensor, Tensor]:
    """Colour and share of the mouth's inside in a window of the rectangle; moves `source` there to the portrait's own teeth."""
    x0, y0, x1, y1 = window
    cut = (..., slice(y0, y1), slice(x0, x1))
    points, share = state.points[:, y0:y1, x0:x1], share[cut]
    rest = at_rest(points, state.geometry, fields.skull)
    apart = top[cut] / state.reach, bottom[cut] / state.reach
    colour = mouth_colour(state.textures, rest, state.geometry, *apart) * fields.light[..., None, None]
    if state.parted:
        own = _own(rest, state)
        where = from_box(rest, state.part)
        source[cut] += (where.permute(0, 3, 1, 2) - source[cut]) * torch.minimum(own, share)
        share = (share - own).clamp(min=0)
    return colour, share


def mouth_colour(textures: tuple[Tensor, Tensor], rest: Tensor, geometry: MouthGeometry, top: Tensor, bottom: Tensor) -> Tensor:
    """Colour (T, 3, h, w) inside a mouth; points on the skull at rest (T, h, w, 2), distances from both lips (T, 1, h, w), box units."""
    def fetched(texture: Tensor, where: Tensor) -> Tensor:
        return F.grid_sample(texture.expand(len(where), -1, -1, -1), where, padding_mode="border", align_corners=False)

    place = tooth_place(rest, geometry)
    height = geometry.face.view(-1, 1, 1)
    risen = bottom[:, 0] / (JAW_SPAN / 2 * height) - 1
    teeth, jaw = fetched(textures[0], place), fetched(textures[1], torch.stack([place[..., 0], risen], -1))
    return torch.lerp(jaw, teeth[:, :3], teeth[:, 3:]) * shade(top / height[:, None])


def opening(top: Tensor, bottom: Tensor, reach: float | Tensor) -> Tensor:
    """Share 0..1 of the mouth's inside, from distances in pixels below the upper and above the lower lip."""
    gap = ((top + bottom) / reach - SLIT[0]) / (SLIT[1] - SLIT[0])
    inside = torch.minimum(top, bottom) / (2 * SOFT) + 0.5
    return inside.clamp(0, 1) * gap.clamp(0, 1)


def _between_corners(state: MouthState) -> Tensor:
    """(B, 1, h, w) 1 as far as a mouth's corners may go, 0 beyond: between columns of the grid curves that touch may part by a hair."""
    x, corners = state.points[..., 0], state.geometry.corners[:, :, None, None]
    inward = torch.minimum(x - corners[:, 0], corners[:, 1] - x) + WIDER
    return (inward * state.reach + 0.5).clamp(0, 1)[:, None]


def fetched_part(picture: Tensor, where: tuple[int, int, int, int], geometry: MouthGeometry, margin: int) -> tuple[Tensor, Tensor]:
    """The picture (1, 3, h, w) that far round a rectangle, its edge repeated, and the way from box coordinates into it."""
    side, pads = picture.shape[-1], (where[0] - margin, where[1] - margin, where[2] + margin, where[3] + margin)
    inside = max(pads[0], 0), max(pads[1], 0), min(pads[2], side), min(pads[3], side)
    cut = picture[..., inside[1] : inside[3], inside[0] : inside[2]]
    cut = F.pad(cut, (inside[0] - pads[0], pads[2] - inside[2], inside[1] - pads[1], pads[3] - inside[3]), mode="replicate")
    size = picture.new_tensor([pads[2] - pads[0], pads[3] - pads[1]])
    shift = (side - 2 * picture.new_tensor(pads[:2])) / size - 1
    part = geometry.box * (side / size)
    return cut, torch.cat([part[:, :2], part[:, 2:] + shift], 1)


def finer(maps: Tensor) -> Tensor:
    """Maps (..., h, w) twice as fine, by cubic convolution: curves stay curves when they are enlarged further."""
    rows, columns = (_doubling(n, maps) for n in maps.shape[-2:])
    return rows @ maps @ columns.T


def _doubling(size: int, like: Tensor) -> Tensor:
    """(2 size, size) weights of doubling a line by cubic convolution."""
    line = F.interpolate(torch.eye(size, device=like.device)[None, None], size=(size, 2 * size), mode="bicubic", align_corners=False)
    return line[0, 0].T.to(like.dtype)


def feather(points: Tensor) -> Tensor:
    """Share (1, 1, h, w) of the mouth over the face's pixels at box points (1, h, w, 2)."""
    inward = torch.minimum(1 - points[..., 0].abs(), TALL - points[..., 1].abs())
    t = (inward / FEATHER).clamp(0, 1)
    return (t * t * (3 - 2 * t))[:, None]


def _fetched(state: MouthState, source: Tensor) -> Tensor:
    """The picture (T, 3, h, w) at `source` (T, 2, h, w)."""
    picture = state.picture.expand(len(source), -1, -1, -1)
    return F.grid_sample(picture, source.permute(0, 2, 3, 1), mode="bicubic", padding_mode="zeros", align_corners=False)


def _own(rest: Tensor, state: MouthState) -> Tensor:
    """Share (T, 1, h, w) of what the portrait shows between its own lips, at points on its skull (T, h, w, 2)."""
    maps = finer(lip_distances(state.share.lips) * state.reach).expand(len(rest), -1, -1, -1)
    look = rest / rest.new_tensor([1, TALL])
    top, bottom = F.grid_sample(maps, look, padding_mode="border", align_corners=False).split(1, 1)
    return opening(top, bottom, state.reach)


def _bounds(share: Tensor) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 round all that is not 0 in any of the maps (T, 1, h, w)."""
    some = (share > 0).any(0)[0]
    x, y = (torch.nonzero(some.any(k)).flatten() for k in (0, 1))
    if not len(x):
        return None
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
