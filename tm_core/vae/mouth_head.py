"""MouthHead: a mouth drawn at the portrait's own resolution from the tiny autoencoder's motion.

The network knows places only, on a coarse grid over a box round the mouth: the two lips' inner contours, one flow
for each lip, where the skull is. Edges, skin and teeth are made at output pixels: contours are distances until the
last moment, skin is the picture fetched where the flows point, teeth are a texture on the skull and one on the jaw.
Where the lips are shut nothing is painted. What a portrait has is found once a stream: a basis of contours and
flows, of which a frame is one weighted sum; a few convolutions of the decoder's features add what the sum leaves.

Where the portrait shows teeth they are fetched from it, where its skull has gone. Not part of the paper.
Non-goals: eyes, the rest of the face, finding landmarks.

Shapes: B portraits, T frames, S side of the picture, K basis elements, GRID = (24, 32) rows and columns.
Coordinates: "picture" -1..1 over the square, "box" x -1..1 across and y -0.75..0.75 down, both (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tiny import Motion

UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # inner lips, corner to corner
LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_CORNERS, MIDDLES, FACE_ENDS = (61, 291), (61, 291, 0, 17), (10, 152)
GRID = (24, 32)
TALL = 0.75  # box heights of a box width
WIDTH = 2.1  # of the mouth's outer width
PORTRAIT = (96, 128)  # pixels of the box that the network sees of the portrait
LATENTS = (6, 8)  # points at which latents are read
TEXTURE = (64, 96)  # rows and columns of the teeth's texture
TOOTH_SPAN, JAW_SPAN = 0.12, 0.12  # face heights that both textures reach down from the gums, up from the lower lip
FEATHER = 0.13  # box units from the edge over which the face's own pixels take over
SUB_FRAMES = 4  # frames of a latent
SOFT = 0.75  # pixels to either side over which the contour fades
WIDER = 0.1  # box units by which a mouth's corners may move outwards
CLEAR = 0.015  # box units
SLIT = (0.004, 0.018)  # box units of gap below which lips count as shut, from which they are open


class MouthGeometry(NamedTuple):
    """Where B mouths are; box units but for `box`."""

    box: Tensor  # (B, 3, 2) across, down, centre: of a point p, picture coordinates are p @ box[:2] + box[2]
    lips: Tensor  # (B, 2, columns) heights of the inner contours at rest, upper and lower
    corners: Tensor  # (B, 2) x of the inner corners
    skull: Tensor  # (B, 2) where the gums are between the upper front teeth
    half: Tensor  # (B,) half the inner mouth's width
    face: Tensor  # (B,) the face's height


class MouthSight(NamedTuple):
    """What T frames show in the box."""

    features: Tensor  # (T, a, *GRID)
    flow: Tensor  # (T, 2, *GRID) the face's own, box units
    latents: Tensor  # (T, 2C, *LATENTS)


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


# -- geometry -------------------------------------------------------------------------------------------


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


# -- the network ----------------------------------------------------------------------------------------


class _Dilated(nn.Module):
    def __init__(self, width: int, dilation: int, operations: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        level = torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-4)
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x * level))))
        return out


class MouthHead(nn.Module):
    """See the module's docstring; `features` and `channels` are the autoencoder's, `operations` builds the layers."""

    spread: Tensor

    def __init__(
        self, *, features: int = 24, channels: int = 16, width: int = 24, basis: int = 20, hidden: int = 96, operations: Any = nn,
    ) -> None:
        super().__init__()
        ops, wide, self.basis = operations, 32, basis
        self.see = nn.Sequential(ops.Conv2d(3, 16, 4, stride=2, padding=1), nn.SiLU(), ops.Conv2d(16, wide - 8, 4, stride=2, padding=1))
        self.portrait = nn.Sequential(ops.Conv2d(wide, wide, 3, padding=1), *(_Dilated(wide, d, ops) for d in (1, 2, 4)), nn.SiLU())
        self.to_still = ops.Conv2d(wide, width, 3, padding=1)
        self.to_flows = ops.Conv2d(wide, 4 * basis, 3, padding=1)
        self.to_curves = ops.Conv2d(wide, 2 * basis + 2, 3, padding=1)
        self.to_code = ops.Linear(wide * 12, hidden)
        self.to_tint = ops.Linear(wide * 12, 6)
        self.enter = ops.Conv2d(features + 2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Dilated(width, d, ops) for d in (1, 2)), nn.SiLU())
        self.leave = ops.Conv2d(width, 6, 3, padding=1)
        self.read = ops.Conv2d(2 * channels, 16, 1)
        self.gather = ops.Linear(16 * math.prod(LATENTS) + 24, 128)
        self.unfold = ops.Linear(128, SUB_FRAMES * hidden)
        self.think = ops.Linear(hidden, hidden)
        self.say = ops.Linear(hidden, basis + 1)
        self.skull_read = ops.Conv2d(channels, 12, 1)
        self.skull_code = ops.Linear(wide, 64)
        self.skull_gather = ops.Linear(12 * math.prod(LATENTS), 64)
        self.skull_say = ops.Linear(64, 3)
        self.teeth = nn.Parameter(torch.full((1, 4, *TEXTURE), 0.4))
        self.jaw = nn.Parameter(torch.full((1, 3, *TEXTURE), 0.15))
        self.register_buffer("spread", torch.ones(2 * channels))

    def init_output(self) -> None:
        """Start from lips at rest."""
        with torch.no_grad():
            for layer in (self.leave, self.to_tint):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.to_tint.bias.fill_(1.0)
            self.to_curves.weight[-2:].zero_()
            self.say.weight.mul_(0.3)
            self.say.bias.zero_()

    def portrait_share(self, crops: Tensor, geometry: MouthGeometry) -> PortraitShare:
        """Once a stream, from the portraits' boxes (B, 3, *PORTRAIT) in 0..1."""
        kind = self.spread.dtype  # of the weights; places need all the digits of float32
        x = self.portrait(torch.cat([self.see(crops.to(kind) * 2 - 1), _rest_maps(geometry).to(kind)], 1))
        change = _along(self.to_curves(x).float().unflatten(1, (-1, 2)), _near(geometry.lips)[:, None])
        pooled = F.adaptive_avg_pool2d(x, (3, 4)).flatten(1)
        return PortraitShare(
            still=self.to_still(x), flows=self.to_flows(x).float().unflatten(1, (-1, 4)) * 0.1, curves=change[:, :-1] * 0.1,
            lips=geometry.lips + change[:, -1] * 0.1, code=self.to_code(pooled), skull_code=self.skull_code(x.mean((2, 3))),
            tint=self.to_tint(pooled).float())

    def fields(self, seen: MouthSight, share: PortraitShare, geometry: MouthGeometry, place: Tensor | None = None) -> MouthFields:
        """Where everything is in T frames of 1 or T portraits.

        place (T,): of each frame in its latent; None: they follow each other and the last is its latent's last.
        """
        if place is None:
            place = (torch.arange(len(seen.flow), device=seen.flow.device) - len(seen.flow)) % SUB_FRAMES
        kind = self.spread.dtype
        said = self.say(F.silu(self.think(F.silu(self._gathered(seen, place) + share.code)))).float()
        weights, skull = said[:, : self.basis], self._skull(seen.latents, share, place)
        carried = _carried(skull, geometry)
        rough = share.lips + carried[:, None] + _sum(weights, share.curves)
        left = self.leave(self.body(self.enter(torch.cat([seen.features, seen.flow * 10], 1).to(kind)) + share.still)).float() * 0.1
        lips = _shut_beyond(rough + _along(left[:, 4:], _near(rough)), geometry.corners)
        own = _sum(weights, share.flows) + left[:, :4]
        own = own - torch.stack([skull[:, 1:2].expand_as(carried), carried] * 2, 1)[:, :, None]
        flows = torch.lerp(seen.flow.repeat(1, 2, 1, 1), own, _window(own))
        return MouthFields(lips=lips, flows=meeting(flows, lips, share.lips, geometry.corners), skull=skull, light=1 + said[:, -1:])

    def _skull(self, latents: Tensor, share: PortraitShare, place: Tensor) -> Tensor:
        """(T, 3) as MouthFields has it: the skull goes in straight lines from latent to latent, so that teeth do not tremble."""
        now, before = (latents.to(self.spread) * self.spread.view(-1, 1, 1)).chunk(2, 1)
        ends = [
            self.skull_say(F.silu(self.skull_gather(F.silu(self.skull_read(z)).flatten(1)) + share.skull_code)).float() * 0.05
            for z in (before, now)]
        return torch.lerp(ends[0], ends[1], ((place + 1) / SUB_FRAMES)[:, None])

    def _gathered(self, seen: MouthSight, place: Tensor) -> Tensor:
        """(T, hidden) of every frame: the latents' say on its place in the group, and the face's flow."""
        read = F.silu(self.read(seen.latents.to(self.spread) * self.spread.view(-1, 1, 1)))
        flow = F.adaptive_avg_pool2d(seen.flow * 10, (3, 4)).to(read)
        every = self.unfold(F.silu(self.gather(torch.cat([read.flatten(1), flow.flatten(1)], 1)))).unflatten(1, (SUB_FRAMES, -1))
        each: Tensor = every[torch.arange(len(every), device=every.device), place]
        return each

    # -- drawing ----------------------------------------------------------------------------------------

    def prepare(self, picture: Tensor, landmarks: Tensor) -> MouthState:
        """Once a stream: a square face crop (3, S, S) in 0..1 of any size, landmarks (468, 3) in its pixels."""
        side = picture.shape[-1]
        picture = picture[None].to(self.spread.device).float()
        geometry = mouth_geometry(picture_coordinates(landmarks.to(picture.device), side)[None])
        reach = float(geometry.box[0, 0].norm()) * side / 2
        share = self.portrait_share(mouth_crop(picture, geometry), geometry)
        where = _rectangle(geometry, side)
        points = to_box(_pixels(where, side, picture)[None], geometry.box)
        picture, part = _part(picture, where, geometry, round(0.5 * reach) + 2)
        return MouthState(
            where=where, geometry=geometry, share=share, textures=self.textures(share.tint),
            parted=bool((share.lips[:, 1] - share.lips[:, 0]).amax() > SLIT[1]), picture=picture, part=part, reach=reach,
            points=points, base=from_box(points, part).permute(0, 3, 1, 2), weight=_feather(points))

    def textures(self, tint: Tensor) -> tuple[Tensor, Tensor]:
        """Teeth (B, 4, *TEXTURE) and the jaw's side (B, 3, *TEXTURE) in a person's colours (B, 6)."""
        of_teeth, of_jaw = tint.view(-1, 2, 3, 1, 1).unbind(1)
        teeth, jaw = self.teeth.to(tint), self.jaw.to(tint)  # a host may keep them elsewhere
        return torch.cat([teeth[:, :3] * of_teeth, teeth[:, 3:].clamp(0, 1).expand(len(tint), -1, -1, -1)], 1), jaw * of_jaw

    def forward(self, motion: Motion, state: MouthState, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (T, 3, h, w) of `state.where` and the share (T, 1, h, w) with which they replace the face's own.

        The last frame is the last of its latent, or `place` (T,) says which one each is. Where the lips are shut, pixels are the
        picture, warped.
        """
        fields = self.fields(mouth_sight(motion, state.geometry), state.share, state.geometry, place)
        return self.draw(fields, state), state.weight.expand(len(fields.lips), -1, -1, -1)

    def draw(self, fields: MouthFields, state: MouthState) -> Tensor:
        """Pixels (T, 3, h, w) of `state.where`."""
        part = state.part[:, :2].expand(len(fields.flows), -1, -1)
        flows = torch.einsum("tfchw,tcd->tfdhw", fields.flows.unflatten(1, (2, 2)), part).flatten(1, 2)
        maps = _finer(torch.cat([flows, _distances(fields.lips) * state.reach], 1))
        look = (state.points / state.points.new_tensor([1, TALL])).expand(len(maps), -1, -1, -1)
        at = F.grid_sample(maps, look, padding_mode="border", align_corners=False)
        top, bottom = at[:, 4:5], at[:, 5:]
        source = torch.where(bottom > top, at[:, :2], at[:, 2:4]).add_(state.base)  # between both flows lies what the lips have left
        share = opening(top, bottom, state.reach)
        window = _bounds(share)
        if window is None:
            return _fetched(state, source).clamp(0, 1)
        paint, share_inside = self._paint(fields, state, top, bottom, share, window, source)
        out = _fetched(state, source)
        inside = (..., slice(window[1], window[3]), slice(window[0], window[2]))
        out[inside] += (paint - out[inside]) * share_inside
        return out.clamp(0, 1)

    def _paint(
        self, fields: MouthFields, state: MouthState, top: Tensor, bottom: Tensor, share: Tensor, window: tuple[int, int, int, int],
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


def mouth_sight(motion: Motion, geometry: MouthGeometry) -> MouthSight:
    """What a motion shows in the boxes of 1 or T portraits."""
    frames = len(motion.flow)
    dense = from_box(box_grid(*GRID, motion.flow)[None], geometry.box).expand(frames, -1, -1, -1)
    sparse = from_box(box_grid(*LATENTS, motion.flow, 1.1)[None], geometry.box).expand(frames, -1, -1, -1)
    both = F.grid_sample(torch.cat([motion.features, motion.flow], 1).float(), dense, padding_mode="border", align_corners=False)
    latents = F.grid_sample(motion.latents.float(), sparse, padding_mode="border", align_corners=False)
    flow = torch.stack([both[:, -2], both[:, -1]], -1)
    still = torch.cat([geometry.box[:, :2], torch.zeros_like(geometry.box[:, 2:])], 1)
    return MouthSight(features=both[:, :-2], flow=to_box(flow, still.expand(frames, -1, -1)).permute(0, 3, 1, 2), latents=latents)


def mouth_crop(pictures: Tensor, geometry: MouthGeometry) -> Tensor:
    """Boxes (B, 3, *PORTRAIT) of pictures (B, 3, S, S)."""
    reach = float(geometry.box[:, 0].norm(dim=-1).amax()) * pictures.shape[-1] / 2
    if 2 * reach > 1.5 * PORTRAIT[1]:  # smaller first, or single pixels of many would be seen
        size = max(1, round(pictures.shape[-1] * PORTRAIT[1] / (2 * reach)))
        pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    where = from_box(box_grid(*PORTRAIT, pictures)[None], geometry.box)
    return F.grid_sample(pictures, where, padding_mode="border", align_corners=False)


def _part(picture: Tensor, where: tuple[int, int, int, int], geometry: MouthGeometry, margin: int) -> tuple[Tensor, Tensor]:
    """The picture (1, 3, h, w) that far round a rectangle, its edge repeated, and the way from box coordinates into it."""
    side, pads = picture.shape[-1], (where[0] - margin, where[1] - margin, where[2] + margin, where[3] + margin)
    inside = max(pads[0], 0), max(pads[1], 0), min(pads[2], side), min(pads[3], side)
    cut = picture[..., inside[1] : inside[3], inside[0] : inside[2]]
    cut = F.pad(cut, (inside[0] - pads[0], pads[2] - inside[2], inside[1] - pads[1], pads[3] - inside[3]), mode="replicate")
    size = picture.new_tensor([pads[2] - pads[0], pads[3] - pads[1]])
    shift = (side - 2 * picture.new_tensor(pads[:2])) / size - 1
    part = geometry.box * (side / size)
    return cut, torch.cat([part[:, :2], part[:, 2:] + shift], 1)


def _rest_maps(geometry: MouthGeometry) -> Tensor:
    """(B, 8, *GRID): distances from the lips at rest, near and far, place in the box and on the teeth."""
    apart = _distances(geometry.lips)
    points = box_grid(*GRID, geometry.box).expand(len(apart), -1, -1, -1)
    place = tooth_place(points, geometry)
    return torch.cat([apart * 3, (apart * 20).clamp(-1, 1), points.permute(0, 3, 1, 2), place.permute(0, 3, 1, 2) * 0.3], 1)


def _distances(lips: Tensor) -> Tensor:
    """(B, 2, *GRID) below the upper contour and above the lower one, from their heights (B, 2, columns)."""
    y = box_grid(GRID[0], 1, lips)[:, :, 1]
    return torch.stack([y - lips[:, :1], lips[:, 1:] - y], 1)


def _finer(maps: Tensor) -> Tensor:
    """Maps (..., h, w) twice as fine, by cubic convolution: curves stay curves when they are enlarged further."""
    rows, columns = (_doubling(n, maps) for n in maps.shape[-2:])
    return rows @ maps @ columns.T


def _doubling(size: int, like: Tensor) -> Tensor:
    """(2 size, size) weights of doubling a line by cubic convolution."""
    line = F.interpolate(torch.eye(size, device=like.device)[None, None], size=(size, 2 * size), mode="bicubic", align_corners=False)
    return line[0, 0].T.to(like.dtype)


def _near(lips: Tensor) -> Tensor:
    """Weights (B, 2, *GRID), of each column 1 in all, of what is near each contour."""
    return torch.softmax(-((_distances(lips) / 0.12) ** 2), 2)


def _along(maps: Tensor, near: Tensor) -> Tensor:
    """Maps (..., 2, *GRID) read along both contours: (..., 2, columns)."""
    return (maps * near).sum(-2)


def _carried(skull: Tensor, geometry: MouthGeometry) -> Tensor:
    """(T, columns) how far down the skull's motion alone takes the mouth."""
    columns = box_grid(1, GRID[1], skull)[0, :, 0]
    return skull[:, 2:] + skull[:, :1] * (columns - geometry.skull[:, :1])


def _shut_beyond(lips: Tensor, corners: Tensor) -> Tensor:
    """Contours (B, 2, columns) that do not part beyond where the corners of the mouth may be."""
    columns = box_grid(1, GRID[1], lips)[0, :, 0]
    inward = torch.minimum(columns - corners[:, :1], corners[:, 1:] - columns)
    part = lips.diff(dim=1).clamp(min=0) * (1 - (inward / WIDER + 1).clamp(0, 1))[:, None] / 2
    return lips + torch.cat([part, -part], 1)


def _sum(weights: Tensor, basis: Tensor) -> Tensor:
    """Weighted sums (T, ...) of the bases (1 or T, K, ...) of portraits."""
    flat = basis.flatten(2)
    summed = weights @ flat[0] if len(flat) == 1 else (weights[:, None] @ flat)[:, 0]
    return summed.view(len(weights), *basis.shape[2:])


def _window(like: Tensor) -> Tensor:
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


def _rectangle(geometry: MouthGeometry, side: int) -> tuple[int, int, int, int]:
    corners = torch.tensor([[-1, -TALL], [1, -TALL], [1, TALL], [-1, TALL]], device=geometry.box.device)
    at = (from_box(corners[None], geometry.box)[0] + 1) * side / 2
    low, high = at.amin(0).floor().clamp(0, side - 1).tolist(), at.amax(0).ceil().clamp(1, side).tolist()
    return int(low[0]), int(low[1]), max(int(high[0]), int(low[0]) + 1), max(int(high[1]), int(low[1]) + 1)


def _pixels(where: tuple[int, int, int, int], side: int, like: Tensor) -> Tensor:
    """Picture coordinates (h, w, 2) of a rectangle's pixels."""
    x, y = ((torch.arange(where[k], where[k + 2], device=like.device) * 2 + 1) / side - 1 for k in (0, 1))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _feather(points: Tensor) -> Tensor:
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
    maps = _finer(_distances(state.share.lips) * state.reach).expand(len(rest), -1, -1, -1)
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
