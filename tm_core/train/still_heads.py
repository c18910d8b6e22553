"""Heads fitted to stills: a portrait, its landmarks and a linear basis of displacement fields.

The basis: six mouth shapes, a blink, small head rotations and shifts, raised brows. Lips are a discontinuity, so there are two smooth
fields, one above and one below the line between the lips. What a head looks like in a pose: generator; new ones of old stills: people.

Shapes: N heads, K=13 basis elements, G side of the field grid, S side of the texture, P points. Coordinates are -1..1 (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

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


def edge_points(device: torch.device | str) -> Tensor:
    """(20, 2) points round the picture's edge, which stands still."""
    line = torch.linspace(-1, 1, 6, device=device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    return grid[(grid.abs() > 0.99).any(-1)]


def ring_points(points: Tensor) -> Tensor:
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
    ring, edge = ring_points(points), edge_points(points.device)
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
