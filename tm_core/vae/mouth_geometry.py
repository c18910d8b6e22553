"""Where a mouth is: a box round it, its lips' contours as heights along the box, the flows that keep what lies between them behind.

Pure functions of landmarks, contours and flows; nothing here is learnt. Not part of the paper.
Shapes: B portraits, T frames, S side of the picture, GRID = (24, 32) rows and columns.
Coordinates: "picture" -1..1 over the square, "box" x -1..1 across and y -0.75..0.75 down, both (x, y).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # inner lips, corner to corner
LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_CORNERS, MIDDLES, FACE_ENDS = (61, 291), (61, 291, 0, 17), (10, 152)
GRID = (24, 32)
TALL = 0.75  # box heights of a box width
WIDTH = 2.1  # of the mouth's outer width
TOOTH_SPAN = 0.12  # face heights that the teeth's texture reaches down from the gums
FEATHER = 0.13  # box units from the edge over which the face's own pixels take over
WIDER = 0.1  # box units by which a mouth's corners may move outwards
CLEAR = 0.015  # box units


class MouthGeometry(NamedTuple):
    """Where B mouths are; box units but for `box`."""

    box: Tensor  # (B, 3, 2) across, down, centre: of a point p, picture coordinates are p @ box[:2] + box[2]
    lips: Tensor  # (B, 2, columns) heights of the inner contours at rest, upper and lower
    corners: Tensor  # (B, 2) x of the inner corners
    skull: Tensor  # (B, 2) where the gums are between the upper front teeth
    half: Tensor  # (B,) half the inner mouth's width
    face: Tensor  # (B,) the face's height


def picture_coordinates(landmarks: Tensor, side: int) -> Tensor:
    """Landmarks (..., 2 or more) in pixels, the first pixel's centre at 0, to picture coordinates (..., 2)."""
    return (landmarks[..., :2].float() + 0.5) * (2 / side) - 1


def to_box(points: Tensor, box: Tensor) -> Tensor:
    """Picture coordinates (B, ..., 2) in boxes (B, 3, 2)."""
    lead = (len(box), *[1] * (points.ndim - 2), 2)
    away, across = points - box[:, 2].view(lead), box[:, 0].view(lead)
    square = (box[:, 0] ** 2).sum(-1).view(lead[:-1])
    x, y = (away * across).sum(-1) / square, (away[..., 1] * across[..., 0] - away[..., 0] * across[..., 1]) / square
    return torch.stack([x, y], -1)


def from_box(points: Tensor, box: Tensor) -> Tensor:
    """The inverse: box coordinates (B, ..., 2) in the picture; points or boxes may be one for all."""
    at: Tensor = (points.flatten(1, -2) @ box[:, :2] + box[:, 2:]).unflatten(1, points.shape[1:-1])
    return at


def box_grid(rows: int, columns: int, like: Tensor, reach: float = 1.0) -> Tensor:
    """Centres (rows, columns, 2) of a grid over the box, or `reach` times as much."""
    x = ((torch.arange(columns, device=like.device) * 2 + 1) / columns - 1) * reach
    y = ((torch.arange(rows, device=like.device) * 2 + 1) / rows - 1) * TALL * reach
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def lip_curves(points: Tensor, box: Tensor) -> Tensor:
    """Heights (B, 2, columns) of the inner contours of landmarks (B, 468, 2) in picture coordinates; flat beyond the corners."""
    inner = to_box(points[:, [*UPPER, *LOWER], :2], box).unflatten(1, (2, -1))
    columns = box_grid(1, GRID[1], points)[0, :, 0].expand(*inner.shape[:2], -1).contiguous()
    x = inner[..., 0].cummax(-1).values.contiguous()
    right = torch.searchsorted(x, columns).clamp(1, x.shape[-1] - 1)
    (xa, ya), (xb, yb) = (inner.gather(2, (right - d)[..., None].expand(-1, -1, -1, 2)).unbind(-1) for d in (1, 0))
    heights: Tensor = ya + ((columns - xa) / (xb - xa).clamp(min=1e-5)).clamp(0, 1) * (yb - ya)
    return heights


def mouth_box(points: Tensor) -> Tensor:
    """Boxes (B, 3, 2) round the mouths of landmarks (B, 468, 2 or more) in picture coordinates."""
    p = points[..., :2]
    outer = p[:, OUTER_CORNERS[1]] - p[:, OUTER_CORNERS[0]]
    width, tall = outer.norm(dim=-1), (p[:, FACE_ENDS[1]] - p[:, FACE_ENDS[0]]).norm(dim=-1)
    across = outer / width[:, None].clamp(min=1e-4) * (torch.maximum(width, 0.27 * tall) * WIDTH / 2)[:, None]  # a turned mouth is narrow
    down = torch.stack([-across[:, 1], across[:, 0]], -1)
    return torch.stack([across, down, p[:, list(MIDDLES)].mean(1) + 0.1 * down], 1)


def mouth_geometry(points: Tensor, box: Tensor | None = None) -> MouthGeometry:
    """Where the mouths of B faces are, from landmarks (B, 468, 2 or more) in picture coordinates; in a box of their own by default."""
    p = points[..., :2]
    box = mouth_box(points) if box is None else box
    ends = to_box(p[:, [UPPER[0], UPPER[-1], UPPER[5]]], box)
    face = (p[:, FACE_ENDS[1]] - p[:, FACE_ENDS[0]]).norm(dim=-1) / box[:, 0].norm(dim=-1)
    skull = torch.stack([ends[:, :2, 0].mean(1), 0.3 * ends[:, :2, 1].mean(1) + 0.7 * ends[:, 2, 1] - 0.025 * face], -1)
    return MouthGeometry(
        box=box, lips=lip_curves(p, box), corners=ends[:, :2, 0], skull=skull, half=(ends[:, 1, 0] - ends[:, 0, 0]) / 2, face=face)


def at_rest(points: Tensor, geometry: MouthGeometry, skull: Tensor) -> Tensor:
    """Where box points (T, h, w, 2) were on the skull of the portrait; skull (T, 3) as MouthFields has it."""
    turn, shift = skull[:, 0].view(-1, 1, 1), skull[:, 1:]
    x, y = (points - (geometry.skull + shift)[:, None, None]).unbind(-1)
    cos, sin = turn.cos(), turn.sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1) + geometry.skull[:, None, None]


def tooth_place(rest: Tensor, geometry: MouthGeometry) -> Tensor:
    """Texture coordinates (T, h, w, 2) -1..1 of points on the skull at rest (T, h, w, 2): across, and down from the gums."""
    u = (rest[..., 0] - geometry.skull[:, :1, None]) / (1.1 * geometry.half.view(-1, 1, 1))
    v = (rest[..., 1] - geometry.skull[:, 1:, None]) / (TOOTH_SPAN / 2 * geometry.face.view(-1, 1, 1)) - 1
    return torch.stack([u, v], -1)


def shade(below: Tensor) -> Tensor:
    """Light 0..1 on what is `below` the upper lip, in face heights: the lip's shadow."""
    return (below / 0.03).clamp(0, 1) * 0.45 + 0.55


def lip_distances(lips: Tensor) -> Tensor:
    """(B, 2, *GRID) below the upper contour and above the lower one, from their heights (B, 2, columns)."""
    y = box_grid(GRID[0], 1, lips)[:, :, 1]
    return torch.stack([y - lips[:, :1], lips[:, 1:] - y], 1)


def near_lips(lips: Tensor) -> Tensor:
    """Weights (B, 2, *GRID), of each column 1 in all, of what is near each contour."""
    return torch.softmax(-((lip_distances(lips) / 0.12) ** 2), 2)


def along_lips(maps: Tensor, near: Tensor) -> Tensor:
    """Maps (..., 2, *GRID) read along both contours: (..., 2, columns)."""
    return (maps * near).sum(-2)


def carried_lips(skull: Tensor, geometry: MouthGeometry) -> Tensor:
    """(T, columns) how far down the skull's motion alone takes the mouth."""
    columns = box_grid(1, GRID[1], skull)[0, :, 0]
    return skull[:, 2:] + skull[:, :1] * (columns - geometry.skull[:, :1])


def shut_beyond(lips: Tensor, corners: Tensor) -> Tensor:
    """Contours (B, 2, columns) that do not part beyond where the corners of the mouth may be."""
    columns = box_grid(1, GRID[1], lips)[0, :, 0]
    inward = torch.minimum(columns - corners[:, :1], corners[:, 1:] - columns)
    part = lips.diff(dim=1).clamp(min=0) * (1 - (inward / WIDER + 1).clamp(0, 1))[:, None] / 2
    return lips + torch.cat([part, -part], 1)


def one_beyond(flows: Tensor, lips: Tensor, corners: Tensor) -> Tensor:
    """Flows (T, 4, *GRID) of both lips that become one beyond the corners, as far as the lips do not part: skin would tear there."""
    columns = box_grid(1, GRID[1], flows)[0, :, 0]
    inward = torch.minimum(columns - corners[:, :1], corners[:, 1:] - columns)
    two = torch.maximum(inward / WIDER + 1, lips.diff(dim=1)[:, 0] / CLEAR).clamp(0, 1)[:, None, None]
    return torch.lerp(flows.unflatten(1, (2, 2)).mean(1).repeat(1, 2, 1, 1), flows, two)


def inner_window(like: Tensor) -> Tensor:
    """(*GRID) 1 in the box, 0 at its edges, where the face's own flow goes on."""
    grid = box_grid(*GRID, like)
    inward = torch.minimum(1 - grid[..., 0].abs(), TALL - grid[..., 1].abs())
    return ((inward - 0.5 * FEATHER) / (1.5 * FEATHER)).clamp(0, 1)


def meeting(flows: Tensor, lips: Tensor, rest: Tensor, corners: Tensor) -> Tensor:
    """Flows changed near each contour so that it comes from the portrait's contour, and no other pixel of the lips gets across.

    Where parted lips of a portrait have closed, it comes from a little further off: a contour is a pixel of both sides.
    """
    frames, columns = len(flows), box_grid(1, GRID[1], flows)[0, :, 0]
    y = box_grid(GRID[0], 1, flows)[:, :, 1]
    within = (torch.minimum(columns - corners[:, :1], corners[:, 1:] - columns) / 0.06 + 1).clamp(0, 1)
    apart = rest.diff(dim=1)[:, 0].clamp(min=1e-4)
    off = torch.minimum(apart / 2, apart.new_tensor(CLEAR)) * (1 - lips.diff(dim=1)[:, 0] / apart).clamp(0, 1)
    changed = []
    for k in (0, 1):
        flow = flows[:, 2 * k : 2 * k + 2]
        on = torch.stack([columns.expand(frames, -1), lips[:, k] / TALL], -1)[:, None]
        moved = F.grid_sample(flow, on, padding_mode="border", align_corners=False)[:, :, 0]
        along = torch.stack([columns + moved[:, 0], torch.zeros_like(moved[:, 0])], -1)[:, None]
        home = F.grid_sample(rest[:, None, k : k + 1].expand(frames, -1, -1, -1), along, padding_mode="border", align_corners=False)[:, 0]
        home = home + (2 * k - 1) * off[:, None]
        error = (home - (lips[:, k : k + 1] + moved[:, 1:])) * within[:, None]
        past = y - lips[:, k : k + 1]
        down = flow[:, 1] + torch.exp(-((past / 0.1) ** 2)) * error
        limit = home - y + past.clamp(min=0) if k == 0 else home - y + past.clamp(max=0)
        kept = torch.minimum(down, limit) if k == 0 else torch.maximum(down, limit)
        changed += [flow[:, 0], torch.lerp(down, kept, within[:, None])]
    return torch.stack(changed, 1)


def rest_maps(geometry: MouthGeometry) -> Tensor:
    """(B, 8, *GRID): distances from the lips at rest, near and far, place in the box and on the teeth."""
    apart = lip_distances(geometry.lips)
    points = box_grid(*GRID, geometry.box).expand(len(apart), -1, -1, -1)
    place = tooth_place(points, geometry)
    return torch.cat([apart * 3, (apart * 20).clamp(-1, 1), points.permute(0, 3, 1, 2), place.permute(0, 3, 1, 2) * 0.3], 1)


def box_rectangle(geometry: MouthGeometry, side: int) -> tuple[int, int, int, int]:
    corners = torch.tensor([[-1, -TALL], [1, -TALL], [1, TALL], [-1, TALL]], device=geometry.box.device)
    at = (from_box(corners[None], geometry.box)[0] + 1) * side / 2
    low, high = at.amin(0).floor().clamp(0, side - 1).tolist(), at.amax(0).ceil().clamp(1, side).tolist()
    return int(low[0]), int(low[1]), max(int(high[0]), int(low[0]) + 1), max(int(high[1]), int(low[1]) + 1)


def rectangle_points(where: tuple[int, int, int, int], side: int, like: Tensor) -> Tensor:
    """Picture coordinates (h, w, 2) of a rectangle's pixels."""
    x, y = ((torch.arange(where[k], where[k + 2], device=like.device) * 2 + 1) / side - 1 for k in (0, 1))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
