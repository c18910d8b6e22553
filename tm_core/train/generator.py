"""Talking clips from stills, in batched torch: the training data's teacher (never used at inference).

A frame is one weighted sum of a head's basis (still_heads), inverted by fixed point, sampled from the portrait; where
the lips have parted a mouth is painted.

`draw` paints a whole frame with a plain mouth, as the autoencoder's training has always seen it; `draw_mouth` any
pixels round the lips, with teeth that stay on the skull, a jaw's side and what the portrait itself shows.

The same code runs on CPU and GPU. Non-goals: 3D, hair. Shapes: N heads, B frames, K=13 basis
elements, G side of the field grid, S side of the texture. Coordinates are normalised to -1..1 (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae.mouth_geometry import TOOTH_SPAN, MouthGeometry, at_rest, mouth_geometry, shade, to_box, tooth_place
from . import landmarks as lm
from .still_heads import GRID, Heads, pixel_grid
from .visemes import SHAPES


def _invert(field: Tensor, where: Tensor, whole: bool, rounds: int = 4) -> Tensor:
    """Where target pixels `where` (h, w, 2) or (B, h, w, 2) come from, under a smooth forward field (B, 2, G, G).

    `whole`: they are all pixels of a square picture.
    """
    target = pixel_grid(GRID, field.device).expand(len(field), -1, -1, -1)
    source = target
    for _ in range(rounds):
        source = target - F.grid_sample(field, source, align_corners=False, padding_mode="border").permute(0, 2, 3, 1)
    offset = (source - target).permute(0, 3, 1, 2)
    if whole:
        offset = F.interpolate(offset, where.shape[-2], mode="bilinear", align_corners=False)
    else:
        offset = F.grid_sample(offset, where.expand(len(field), -1, -1, -1), align_corners=False, padding_mode="border")
    return where + offset.permute(0, 2, 3, 1)


def _curve(line: Tensor, u: Tensor, samples: int = 24) -> Tensor:
    """Heights of polylines at u: line (B, P, 2) of (u, v) points, u (B, Q) -> (B, Q); flat beyond the ends."""
    first, last = line[:, :1, 0], line[:, -1:, 0]
    even = first + (last - first) * torch.linspace(0, 1, samples, device=line.device)
    right = torch.searchsorted(line[..., 0].cummax(-1).values.contiguous(), even.contiguous()).clamp(1, line.shape[1] - 1)
    a, b = (torch.gather(line, 1, (right - d).unsqueeze(-1).expand(-1, -1, 2)) for d in (1, 0))
    share = ((even - a[..., 0]) / (b[..., 0] - a[..., 0]).clamp(min=1e-6)).clamp(0, 1)
    height = a[..., 1] + share * (b[..., 1] - a[..., 1])
    place = ((u - first) / (last - first).clamp(min=1e-6)).clamp(0, 1) * (samples - 1)
    low = place.floor().clamp(max=samples - 2)
    lower, upper = (torch.gather(height, 1, low.long() + d) for d in (0, 1))
    return lower + (place - low) * (upper - lower)


def _rise(low: float, high: float, v: Tensor) -> Tensor:
    t = ((v - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _cavity(u: Tensor, v: Tensor, teeth: Tensor) -> Tensor:
    """Colour (B, 3, Q) inside a mouth at u across (-1..1) and v downward (face heights / 0.2 from the teeth's root)."""
    a = u.abs().unsqueeze(1)
    v = v.unsqueeze(1)
    shape = (1, 3, 1)
    colour = u.new_tensor([0.17, 0.067, 0.067]).view(shape) * (1 - 0.6 * a**2)
    tongue = _rise(0.5, 0.75, v - 0.25 * a**2) * (1 - _rise(0.45, 0.85, a))
    colour = colour + tongue * (u.new_tensor([0.5, 0.23, 0.23]).view(shape) - colour)
    gaps = torch.ones_like(a)
    for g in (0.0, 0.33, 0.6, 0.82):
        gaps = gaps - 0.10 * torch.exp(-(((a - g) / 0.03) ** 2))
    shade = gaps * (1 - 0.7 * a**2) * (0.62 + 0.38 * _rise(0, 0.2, v))
    row = (1 - _rise(0.23, 0.31, v + 0.07 * a**2)) * (1 - _rise(0.6, 0.95, a)) * 0.92
    white = u.new_tensor([0.80, 0.757, 0.706]).view(shape) * teeth.view(-1, 1, 1) * 1.2
    return colour + row * (white * shade - colour)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn, and how: the truth an autoencoder that warps can be taught directly."""

    frames: Tensor  # (B, 3, side, side) 0..1
    source: Tensor  # (B, side, side, 2) where in the portrait each pixel comes from
    mouth: Tensor  # (B, 1, side, side) share of painted mouth


class _Lips(NamedTuple):
    """The pixels of B frames (Q of them) against the lips: u along the mouth, v down from the middle of its corners."""

    points: Tensor  # (B, 468, 2) landmarks as posed
    upper: Tensor  # (B, h, w, 2) where each pixel would come from on the upper lip's side
    lower: Tensor
    u: Tensor  # (B, Q)
    v: Tensor
    v_top: Tensor  # (B, Q) heights of both inner contours there; lips may touch but never pass each other
    v_bottom: Tensor
    top: Tensor  # (B, 11, 2) the upper contour


def _posed(heads: Heads, weights: Tensor, where: Tensor, whole: bool) -> _Lips:
    upper = _invert(_summed(heads.field_upper, weights), where, whole)
    lower = _invert(_summed(heads.field_lower, weights), where, whole)
    points = heads.points[..., :2] + (heads.move * weights[:, :, None, None]).sum(1)
    return _Lips(points, upper, lower, *_against_lips(points, where))


def _summed(basis: Tensor, weights: Tensor) -> Tensor:
    """Fields (B, 2, G, G) of B or one heads' bases (N, K, 2, G, G) at weights (B, K)."""
    if len(basis) < len(weights):
        return torch.einsum("bk,kcyx->bcyx", weights, basis[0])
    return (basis * weights[:, :, None, None, None]).sum(1)


def _against_lips(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, v, v_top, v_bottom (B, Q) of pixels (h, w, 2) or (B, h, w, 2), and the upper contour, for landmarks (B, 468, 2)."""
    down = points[:, 152] - points[:, 10]
    down = down / down.norm(dim=-1, keepdim=True)
    up, low = points[:, list(lm.UPPER)], points[:, list(lm.LOWER)]
    cross = ((low - up) * down[:, None]).sum(-1).clamp(max=0)[..., None] * down[:, None] / 2
    up, low = up + cross, low - cross  # lips may touch but never pass each other
    centre = (up[:, :1] + up[:, -1:]) / 2
    across = up[:, -1] - up[:, 0]
    across = across / across.norm(dim=-1, keepdim=True)
    axes = torch.stack([across, torch.stack([-across[:, 1], across[:, 0]], -1)], -1)  # (B, 2, 2): to (u, v)
    pixels = (where.reshape(-1, where.shape[-3] * where.shape[-2], 2) - centre) @ axes
    top, bottom = ((line - centre) @ axes for line in (up, low))
    u, v = pixels.unbind(-1)
    return u, v, _curve(top, u), _curve(bottom, u), top


def draw(heads: Heads, weights: Tensor, side: int) -> Drawn:
    """B heads posed by weights (B, 13): six SHAPES, blink, yaw pitch roll x y, brow."""
    lips = _posed(heads, weights, pixel_grid(side, weights.device), True)
    source = _source(lips)
    frame = F.grid_sample(heads.texture, source, align_corners=False, padding_mode="reflection")
    mask = _opened(lips.u, lips.v, lips.v_top, lips.v_bottom, lips.top, 2 / side).view(-1, 1, side, side)
    colour = _mouth(heads, weights, lips).view(-1, 3, side, side)
    return Drawn(frames=(frame * (1 - mask) + colour * mask).clamp(0, 1), source=source, mouth=mask)


def _source(lips: _Lips) -> Tensor:
    """(B, h, w, 2) where the pixels come from, each from its own lip."""
    above = (lips.v < (lips.v_top + lips.v_bottom) / 2).view(*lips.upper.shape[:-1], 1)
    return torch.where(above, lips.upper, lips.lower)


def _opened(u: Tensor, v: Tensor, v_top: Tensor, v_bottom: Tensor, top: Tensor, pixel: float) -> Tensor:
    """Share (B, Q) of the mouth's inside."""
    inside = ((v - v_top) / pixel + 0.5).clamp(0, 1) * ((v_bottom - v) / pixel + 0.5).clamp(0, 1)
    inside = inside * ((u - top[:, :1, 0]) / pixel).clamp(0, 1) * ((top[:, -1:, 0] - u) / pixel).clamp(0, 1)
    gap = ((v_bottom - v_top) / pixel).clamp(0, 1)  # lips that touch show no line of cavity
    return inside * gap


def _mouth(heads: Heads, weights: Tensor, lips: _Lips) -> Tensor:
    """Colour (B, 3, Q) of the plain mouth."""
    height = heads.height[:, None]
    half = (heads.points[:, 308, :2] - heads.points[:, 78, :2]).norm(dim=-1, keepdim=True) / 2
    root = lips.top[:, 5, 1:] * 0.7 - 0.012 * height  # the teeth hang from the skull, not from the lip
    colour = _cavity(lips.u / half, (lips.v - root) / (0.2 * height), heads.teeth)
    return (colour * _mouth_light(heads, weights)[:, :, None]).clamp(0, 1)


def _mouth_light(heads: Heads, weights: Tensor) -> Tensor:
    """(B, 3) light that falls into the mouth: less through rounded lips."""
    return heads.light * (1 - 0.5 * weights[:, 3].clamp(0, 1))[:, None]


# -- the mouth at any pixels ----------------------------------------------------------------------------

TEETH_ENDS = (0.0, 0.36, 0.63, 0.84, 1.02)  # of half an upper row, where one tooth ends and the next begins
TEETH_TALL = (0.050, 0.044, 0.049, 0.042)  # face heights


@dataclass(frozen=True, kw_only=True)
class DrawnMouth:
    """Pixels round the mouths of B frames, and how they were drawn."""

    frames: Tensor  # (B, 3, h, w) 0..1
    mouth: Tensor  # (B, 1, h, w) share of the mouth's inside
    upper: Tensor  # (B, h, w, 2) where the upper lip's side comes from
    lower: Tensor
    points: Tensor  # (B, 468, 2) landmarks as posed
    skull: Tensor  # (B, 468, 2) landmarks moved by the head alone


def draw_mouth(heads: Heads, weights: Tensor, side: int, where: Tensor, plain: bool = False) -> DrawnMouth:
    """Pixels `where` (B, h, w, 2) of a picture of `side` in B poses of B heads or one, otherwise as `draw`; `plain`: its mouth as well."""
    lips = _posed(heads, weights, where, False)
    shape = where.shape[-3:-1]
    texture = heads.texture.expand(len(weights), -1, -1, -1)
    frame = F.grid_sample(texture, _source(lips), mode="bicubic", align_corners=False, padding_mode="reflection")
    mask = _opened(lips.u, lips.v, lips.v_top, lips.v_bottom, lips.top, 2 / side).unflatten(1, (1, *shape))
    pose = weights.clone()
    pose[:, : len(SHAPES) + 1] = 0
    pose[:, -1] = 0
    skull = heads.points[..., :2] + (heads.move * pose[:, :, None, None]).sum(1)
    colour = _mouth(heads, weights, lips).unflatten(2, shape) if plain else _full_mouth(heads, weights, lips, skull, where, side)
    return DrawnMouth(
        frames=(frame * (1 - mask) + colour * mask).clamp(0, 1), mouth=mask, upper=lips.upper, lower=lips.lower, points=lips.points,
        skull=skull)


def skull_motion(geometry: MouthGeometry, rest: Tensor, moved: Tensor) -> Tensor:
    """(B, 3) turn and shift of the skull, as MouthFields has them, from landmarks (B, 468, 2) at rest and as the head moved them."""
    both = (p.expand(len(moved), -1, -1)[:, [lm.UPPER[0], lm.UPPER[-1]]] for p in (rest, moved))
    ends = torch.stack([to_box(p, geometry.box.expand(len(moved), -1, -1)) for p in both], 1)
    along, middle = ends[:, :, 1] - ends[:, :, 0], ends.mean(2)
    angle = torch.atan2(along[..., 1], along[..., 0])
    turn = angle[:, 1] - angle[:, 0]
    x, y = (geometry.skull - middle[:, 0]).unbind(-1)
    away = torch.stack([turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y], -1)
    return torch.cat([turn[:, None], middle[:, 1] + away - geometry.skull], 1)


def _full_mouth(heads: Heads, weights: Tensor, lips: _Lips, skull: Tensor, where: Tensor, side: int) -> Tensor:
    """Colour (B, 3, h, w): what the portrait shows between its own lips, painted teeth, tongue and dark beyond."""
    shape, height = where.shape[-3:-1], heads.height[:, None]
    geometry = mouth_geometry(heads.points)
    rest = at_rest(to_box(where, geometry.box), geometry, skull_motion(geometry, heads.points[..., :2], skull))
    place = tooth_place(rest, geometry).flatten(1, 2)
    risen, below = (lips.v_bottom - lips.v) / height, (lips.v - lips.v_top) / height
    colour = _oral(place[..., 0] * 1.1, (place[..., 1] + 1) / 2 * TOOTH_SPAN, risen, below, heads.teeth)
    painted = (colour * _mouth_light(heads, weights)[:, :, None]).clamp(0, 1).unflatten(2, shape)
    home = (rest.flatten(1, 2) @ geometry.box[:, :2] + geometry.box[:, 2:]).unflatten(1, shape)
    own = _opened(*_against_lips(heads.points[..., :2].expand(len(home), -1, -1), home), 2 / side).unflatten(1, (1, *shape))
    seen = F.grid_sample(heads.texture.expand(len(home), -1, -1, -1), home, mode="bicubic", align_corners=False, padding_mode="border")
    return torch.lerp(painted, seen, own)


def _oral(u: Tensor, v: Tensor, risen: Tensor, below: Tensor, teeth: Tensor) -> Tensor:
    """Colour (B, 3, Q) at u across (-1..1), v down from the gums, `risen` above the lower lip, `below` the upper one (face heights)."""
    a = u.abs()
    ends = u.new_tensor(TEETH_ENDS)
    number = (torch.bucketize(a, ends) - 1).clamp(0, len(TEETH_TALL) - 1)
    start, stop = ends[number], ends[number + 1]
    across = ((a - start) / (stop - start) * 2 - 1).clamp(-1, 1)
    tip = u.new_tensor(TEETH_TALL)[number] - 0.004 * across**4 + 0.003 * a**2
    upper = (1 - _rise(-0.0025, 0.0025, v - tip)) * (1 - _rise(0.84, 1.02, a))
    gleam = 0.05 * torch.exp(-((across / 0.4) ** 2) - ((v - 0.03) / 0.01) ** 2)
    white = (0.66 + 0.34 * _rise(0, 0.03, v)) * (1 - 0.5 * a**2) * (1 - 0.28 * across.abs() ** 6) + gleam
    tongue = (1 - _rise(0.04, 0.07, risen + 0.02 * a**2)) * (1 - _rise(0.5, 0.9, a)) * (0.45 + 0.55 * _rise(0.002, 0.02, risen))
    groove = 1 - 0.18 * torch.exp(-((u / 0.07) ** 2))
    low = (1 - _rise(0.008, 0.013, risen + 0.006 * a**2)) * (1 - _rise(0.45, 0.75, a))
    low_gaps = 1 - 0.3 * (u * torch.pi / 0.2).cos().abs() ** 12
    deep = u.new_tensor([0.13, 0.045, 0.042]).view(1, 3, 1) * (1 - 0.6 * a**2)[:, None]
    colour = torch.lerp(deep, u.new_tensor([0.50, 0.24, 0.23]).view(1, 3, 1) * groove[:, None], tongue[:, None])
    ivory = u.new_tensor([0.80, 0.757, 0.706]).view(1, 3, 1) * teeth.view(-1, 1, 1) * 1.2
    colour = torch.lerp(colour, ivory * (0.6 * low_gaps)[:, None], 0.65 * low[:, None])
    return torch.lerp(colour, ivory * white[:, None], 0.95 * upper[:, None]) * shade(below)[:, None]
