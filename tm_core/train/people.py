"""People nobody is: stills mirrored, blended, reframed and recoloured, with heads fitted to them.

Shapes: S side of a picture, P points. Coordinates are normalised to -1..1 (x, y). Non-goals: where stills come from (dataset, corpus).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import landmarks as lm
from .still_heads import GRID, Heads, edge_points, fit_head, pixel_grid, ring_points, similarity, thin_plate


def _warp(image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """image (3, S, S) redrawn so that its points source (P, 2) lie at target (P, 2)."""
    edge = edge_points(image.device)
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
    ring = ring_points(pa)[:, :2]
    wa = _warp(a, torch.cat([pa[:, :2], ring]), torch.cat([mid[:, :2], ring]))
    wb = _warp(b, torch.cat([pb[:, :2], ring_points(pb)[:, :2]]), torch.cat([mid[:, :2], ring]))
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
    ring = ring_points(points)[:, :2]
    moved_ring = (ring * zoom) @ rotation.T
    scale = zoom.mean()
    edge = edge_points(image.device)  # the picture's edge follows the framing, so nothing folds there
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
