"""Talking clips from stills, in batched torch: the training data's teacher (never used at inference).

A head is a portrait, its 468 landmarks and a linear basis of displacement fields: six mouth shapes, a
blink, small head rotations and shifts, and raised brows. A frame is one weighted sum of that basis, inverted by fixed
point, sampled from the portrait; where the lips have parted a mouth is painted. Lips are a discontinuity,
so there are two smooth fields, one above and one below the line between the lips.

`draw` paints a whole frame with a plain mouth, as the autoencoder's training has always seen it; `draw_mouth` any
pixels round the lips, with teeth that stay on the skull, a jaw's side and what the portrait itself shows.

The same code runs on CPU and GPU. Non-goals: 3D, hair. Shapes: N heads, B frames, K=13 basis
elements, G side of the field grid, S side of the texture. Coordinates are normalised to -1..1 (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae.mouth_head import TOOTH_SPAN, MouthGeometry, at_rest, mouth_geometry, shade, to_box, tooth_place
from . import landmarks as lm
from .visemes import CLOSING, SHAPES

GRID = 64
REACH = (0.85, 0.95, 1.0, 1.0, 1.0, 1.0)  # how far each of SHAPES may go
NUM_BASIS = len(SHAPES) + 1 + 5 + 1
BROW_RAISE = 0.035  # of the face's height


@dataclass(frozen=True, kw_only=True)
class Heads:
    """N heads ready to be drawn; every field's first axis is N."""

    texture: Tensor  # (N, 3, S, S) 0..1
    points: Tensor  # (N, 468, 3) landmarks, normalised
    field_upper: Tensor  # (N, K, 2, G, G)
    field_lower: Tensor
    move: Tensor  # (N, K, 468, 2) displacement of the landmarks
    light: Tensor  # (N, 3) colour of teeth in this light
    teeth: Tensor  # (N,) 0..1 how bright the teeth are

    def __getitem__(self, index: Tensor) -> Heads:
        return Heads(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Heads:
        """The same heads on another device."""
        return Heads(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def height(self) -> Tensor:
        """Face height (N,), normalised units."""
        tall: Tensor = (self.points[:, 10, :2] - self.points[:, 152, :2]).norm(dim=-1)
        return tall


def cat_heads(parts: list[Heads]) -> Heads:
    """All heads of the parts in one batch."""
    return Heads(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Heads)})


# -- geometry -----------------------------------------------------------------------------------------


def similarity(points: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """`points` (..., P, 2) after the least-squares similarity that lays source (..., Q, 2) onto target."""
    cs, ct = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    s, t = torch.view_as_complex((source - cs).contiguous()), torch.view_as_complex((target - ct).contiguous())
    factor = (s.conj() * t).sum(-1, keepdim=True) / (s.abs() ** 2).sum(-1, keepdim=True)
    p = torch.view_as_complex((points - cs).contiguous())
    return torch.view_as_real(p * factor) + ct


def _radial(a: Tensor, b: Tensor) -> Tensor:
    square = ((a.unsqueeze(-2) - b.unsqueeze(-3)) ** 2).sum(-1)
    return square * torch.log(square + 1e-9)


def thin_plate(points: Tensor, values: Tensor, where: Tensor, smooth: float = 1e-3) -> Tensor:
    """Smooth interpolation (Q, C) at `where` (Q, 2) of `values` (P, C) given at `points` (P, 2)."""
    p = points.double()
    n = len(p)
    ones = torch.ones(n, 1, dtype=p.dtype, device=p.device)
    affine = torch.cat([ones, p], 1)
    system = torch.zeros(n + 3, n + 3, dtype=p.dtype, device=p.device)
    system[:n, :n] = _radial(p, p) + smooth * torch.eye(n, dtype=p.dtype, device=p.device)
    system[:n, n:], system[n:, :n] = affine, affine.T
    right = torch.cat([values.double(), torch.zeros(3, values.shape[1], dtype=p.dtype, device=p.device)])
    weights = torch.linalg.solve(system, right).float()
    q = where.float()
    found: Tensor = _radial(q, points.float()) @ weights[:n] + weights[n] + q @ weights[n + 1 :]
    return found


def pixel_grid(side: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixel centres (side, side, 2), normalised (x, y)."""
    line = (torch.arange(side, device=device) * 2 + 1) / side - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def _edge(device: torch.device | str) -> Tensor:
    line = torch.linspace(-1, 1, 6, device=device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    return grid[(grid.abs() > 0.99).any(-1)]


def _ring(points: Tensor) -> Tensor:
    """(36, 3) points round the head (hair, ears, neck): they follow it, so that the background need not."""
    centre = points[:, :2].mean(0)
    xy = (centre + (points[list(lm.OVAL), :2] - centre) * 1.35).clamp(-0.96, 0.96)
    return torch.cat([xy, points[list(lm.OVAL), 2:].mean(0).expand(len(xy), 1)], 1)


def _mouth_moves(points: Tensor, shapes: Tensor) -> Tensor:
    """(6, 468, 2): each mouth shape of the rendered head, laid onto this face."""
    rigid = list(lm.RIGID)
    face = points[rigid, :2].expand(len(shapes), -1, 2)
    laid = similarity(shapes, shapes[:, rigid], face)
    move = (laid[1:] - laid[:1]) * torch.tensor(REACH, device=points.device).view(-1, 1, 1)
    down = points[152, :2] - points[10, :2]
    down = down / down.norm()
    up, low = list(lm.UPPER), list(lm.LOWER)
    for k, part in ((CLOSING, 0.6), (CLOSING + 1, 1.0)):  # F V, M B P: also close lips that stand open
        gap = (points[low, :2] - points[up, :2] + move[k, low] - move[k, up]) @ down
        lift = gap.clamp(min=0)[:, None] * down * part
        move[k, up] += lift * 0.3
        move[k, low] -= lift * 0.7
        move[k, list(lm.OUTER_LOWER)] -= lift * 0.6
    return move


def _blink_move(points: Tensor) -> Tensor:
    move = torch.zeros(1, len(points), 2, device=points.device)
    drop = points[list(lm.LID_BELOW), :2] - points[list(lm.LID), :2]
    move[0, list(lm.LID)] = drop * 0.9
    move[0, list(lm.LID_CREASE)] = drop * 0.45
    return move


def _brow_move(points: Tensor) -> Tensor:
    """(1, 468, 2): brows up; the skin between follows by interpolation."""
    move = torch.zeros(1, len(points), 2, device=points.device)
    move[0, list(lm.BROWS)] = (points[10, :2] - points[152, :2]) * BROW_RAISE
    return move


def _pose_moves(points: Tensor, neck: Tensor, height: Tensor) -> Tensor:
    """(5, P, 2): small rotations about the neck (yaw, pitch, roll) and shifts, to first order."""
    x, y, z = (points - neck).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x) * height
    return torch.stack([torch.stack(v, -1) for v in ((z, zero), (zero, -z), (-y, x), (one, zero), (zero, one))])


def _fields(points: Tensor, moves: Tensor) -> Tensor:
    """(K, 2, G, G) smooth fields through moves (K, P, 2) at points (P, 2)."""
    k = len(moves)
    flat = thin_plate(points, moves.permute(1, 0, 2).reshape(len(points), -1), pixel_grid(GRID, points.device).reshape(-1, 2))
    return flat.reshape(GRID, GRID, k, 2).permute(2, 3, 0, 1).contiguous()


def fit_head(texture: Tensor, points: Tensor, shapes: Tensor, *, teeth: float = 0.8) -> Heads:
    """One head (N=1) from a picture (3, S, S), its landmarks (468, 3) and the rendered shapes (7, 468, 2), rest first."""
    height = (points[10, :2] - points[152, :2]).norm()
    down = (points[152, :2] - points[10, :2]) / height
    neck = points.mean(0) + torch.cat([down * 0.35, points.new_tensor([0.5])]) * height
    ring, edge = _ring(points), _edge(points.device)
    face_moves = torch.cat([_mouth_moves(points, shapes), _blink_move(points), _pose_moves(points, neck, height), _brow_move(points)])
    still = torch.zeros(len(SHAPES) + 1, len(ring), 2, device=points.device)
    ring_moves = torch.cat([still, _pose_moves(ring, neck, height), still[:1]])
    all_points = torch.cat([points[:, :2], ring[:, :2], edge])
    all_moves = torch.cat([face_moves, ring_moves, torch.zeros(NUM_BASIS, len(edge), 2, device=points.device)], 1)
    corners = set(lm.CORNERS)
    layers = []
    for hidden in ((*lm.LOWER, *lm.MID_LOWER, *lm.OUTER_LOWER), (*lm.UPPER, *lm.MID_UPPER, *lm.OUTER_UPPER)):
        keep = torch.ones(len(all_points), dtype=torch.bool, device=points.device)
        keep[[i for i in hidden if i not in corners]] = False
        layers.append(_fields(all_points[keep], all_moves[:, keep]))
    cheeks = F.grid_sample(texture[None], points[list(lm.CHEEKS), :2].view(1, 1, -1, 2), align_corners=False)[0, :, 0]
    skin = cheeks.mean(1)
    light = (0.3 + skin.mean()).clamp(0.4, 1.05) * (0.5 + 0.5 * skin / skin.mean().clamp(min=0.05))
    return Heads(
        texture=texture[None], points=points[None], field_upper=layers[0][None], field_lower=layers[1][None],
        move=face_moves[None], light=light[None], teeth=points.new_tensor([teeth]),
    )


# -- drawing ------------------------------------------------------------------------------------------


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


# -- new people ---------------------------------------------------------------------------------------


def _warp(image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """image (3, S, S) redrawn so that its points source (P, 2) lie at target (P, 2)."""
    edge = _edge(image.device)
    field = thin_plate(torch.cat([target, edge]), torch.cat([source - target, torch.zeros_like(edge)]),
                       pixel_grid(GRID, image.device).reshape(-1, 2))
    offset = F.interpolate(field.T.reshape(1, 2, GRID, GRID), image.shape[-1], mode="bilinear", align_corners=False)
    return F.grid_sample(image[None], pixel_grid(image.shape[-1], image.device)[None] + offset.permute(0, 2, 3, 1),
                         align_corners=False, padding_mode="reflection")[0]


def inside(polygon: Tensor, side: int) -> Tensor:
    """(1, side, side) 1 inside a polygon (P, 2), by crossing number."""
    p = pixel_grid(side, polygon.device).reshape(-1, 1, 2)
    a, b = polygon[None], polygon.roll(-1, 0)[None]
    straddle = (a[..., 1] > p[..., 1]) != (b[..., 1] > p[..., 1])
    at = a[..., 0] + (p[..., 1] - a[..., 1]) / (b[..., 1] - a[..., 1] + 1e-12) * (b[..., 0] - a[..., 0])
    return ((straddle & (p[..., 0] < at)).sum(1) % 2).float().view(1, side, side)


def soften(mask: Tensor, width: int) -> Tensor:
    k = 2 * width + 1
    for _ in range(2):
        if width < 25:
            mask = F.avg_pool2d(mask[None], k, 1, width, count_include_pad=False)[0]
        else:  # the same, line by line: a wide square costs seconds
            for kernel in ((k, 1), (1, k)):
                mask = F.avg_pool2d(mask[None], kernel, 1, (kernel[0] // 2, kernel[1] // 2), count_include_pad=False)[0]
    return mask


def blend_people(a: Tensor, pa: Tensor, b: Tensor, pb: Tensor, share: float, skin: float) -> tuple[Tensor, Tensor]:
    """A new person: shape between both (share of b), b's inner face in a's colours, a's hair and background.

    Pictures (3, S, S), landmarks (468, 3); returns picture and landmarks.
    """
    rigid = list(lm.RIGID)
    laid = similarity(pb[:, :2], pb[rigid, :2], pa[rigid, :2])
    mid = torch.cat([pa[:, :2] * (1 - share) + laid * share, pa[:, 2:] * (1 - share) + pb[:, 2:] * share], 1)
    ring = _ring(pa)[:, :2]
    wa = _warp(a, torch.cat([pa[:, :2], ring]), torch.cat([mid[:, :2], ring]))
    wb = _warp(b, torch.cat([pb[:, :2], _ring(pb)[:, :2]]), torch.cat([mid[:, :2], ring]))
    side = a.shape[-1]
    centre = mid[:, :2].mean(0)
    inner = inside(centre + (mid[list(lm.OVAL), :2] - centre) * 0.92, side)
    where = inner[0] > 0

    def stats(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, where].mean(1).view(3, 1, 1), x[:, where].std(1).view(3, 1, 1) + 1e-3

    (mean_a, std_a), (mean_b, std_b) = stats(wa), stats(wb)
    wb = ((wb - mean_b) / std_b * std_a + mean_a).clamp(0, 1)
    soft = soften(inner, max(1, side // 40)) * skin
    return wa * (1 - soft) + wb * soft, mid


def recolour(image: Tensor, points: Tensor, rng: torch.Generator) -> Tensor:
    """Random light, colour and background of a picture (3, S, S)."""
    def r(*size: int) -> Tensor:
        return torch.rand(*size, generator=rng).to(image.device) * 2 - 1

    side = image.shape[-1]
    gain = 1 + 0.12 * r(3, 1, 1) * 0.6 + 0.12 * r(1)
    gamma = torch.exp(0.25 * r(1))
    grey = image.mean(0, keepdim=True)
    image = (grey + (image - grey) * (1 + 0.3 * r(1))).clamp(1e-3, 1) ** gamma * gain
    tilt = (pixel_grid(side, image.device) * 0.15 * r(2)).sum(-1)
    image = image * (1 + tilt)
    if r(1).item() > 0.2:  # beyond the head, mix towards another background
        centre = points[:, :2].mean(0)
        head = soften(inside(centre + (points[list(lm.OVAL), :2] - centre) * points.new_tensor([1.45, 1.6]), side), side // 10)
        wall = (0.5 + 0.45 * r(3, 1, 1)) * (1 + (pixel_grid(side, image.device) * 0.3 * r(2)).sum(-1))
        share = (1 - head) * (0.5 + 0.5 * r(1).abs())
        image = image * (1 - share) + wall * share
    return image.clamp(0, 1)


def reframe(image: Tensor, points: Tensor, rng: torch.Generator, amount: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random framing (zoom, stretch, turn, shift) and face shape of a picture (3, S, S) with landmarks (468, 3)."""
    def r(n: int) -> Tensor:
        return (torch.rand(n, generator=rng).to(image.device) * 2 - 1) * amount

    turn = 0.06 * r(1)
    zoom = torch.exp(0.08 * r(1) + 0.05 * r(2))
    rotation = torch.stack([torch.cat([turn.cos(), -turn.sin()]), torch.cat([turn.sin(), turn.cos()])])
    target = (points[:, :2] * zoom) @ rotation.T + 0.05 * r(2)
    knots = torch.rand(6, 2, generator=rng).to(image.device) * 1.2 - 0.6
    bumps = torch.exp(-((target[:, None] - knots) ** 2).sum(-1) / 0.08)
    target = target + bumps @ (0.02 * r(12).view(6, 2))
    ring = _ring(points)[:, :2]
    moved_ring = (ring * zoom) @ rotation.T
    scale = zoom.mean()
    edge = _edge(image.device)  # the picture's edge follows the framing, so nothing folds there
    source = torch.cat([points[:, :2], ring, edge])
    destination = torch.cat([target, moved_ring, (edge * zoom) @ rotation.T])
    field = thin_plate(destination, source, pixel_grid(GRID, image.device).reshape(-1, 2), smooth=1e-2)
    where = F.interpolate(field.T.reshape(1, 2, GRID, GRID), image.shape[-1], mode="bilinear", align_corners=False)
    moved = F.grid_sample(image[None], where.permute(0, 2, 3, 1), align_corners=False, padding_mode="reflection")[0]
    return moved, torch.cat([target, points[:, 2:] * scale], 1)


@dataclass(frozen=True, kw_only=True)
class PackedFaces:
    """Prepared stills: pictures (P, 3, S, S) 0..1, landmarks (P, 468, 3) normalised, mouth shapes (7, 468, 2)."""

    images: Tensor
    points: Tensor
    shapes: Tensor

    def to(self, device: torch.device | str) -> PackedFaces:
        """The same stills on another device."""
        return replace(self, images=self.images.to(device), points=self.points.to(device), shapes=self.shapes.to(device))


def new_person(faces: PackedFaces, rng: torch.Generator, *, blend: float = 0.6) -> Heads:
    """A head (N=1) nobody has: one still or a blend of two, mirrored stills included, reframed and recoloured."""
    a, b = torch.randint(len(faces.images), (2,), generator=rng).tolist()
    image, points = faces.images[a], faces.points[a]
    mix = torch.rand(3, generator=rng).tolist()
    if a != b and mix[0] < blend:
        image, points = blend_people(image, points, faces.images[b], faces.points[b], 0.3 + 0.4 * mix[1], 0.35 + 0.6 * mix[2])
    image, points = reframe(image, points, rng)
    image = recolour(image, points, rng)
    return fit_head(image, points, faces.shapes, teeth=0.6 + 0.35 * torch.rand(1, generator=rng).item())
