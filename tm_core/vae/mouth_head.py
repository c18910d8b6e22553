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
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mouth_drawing import SLIT, MouthFields, MouthState, PortraitShare, feather, fetched_part, mouth_pixels
from .mouth_geometry import (
    GRID,
    MouthGeometry,
    along_lips,
    box_grid,
    box_rectangle,
    carried_lips,
    from_box,
    inner_window,
    meeting,
    mouth_geometry,
    near_lips,
    one_beyond,
    picture_coordinates,
    rectangle_points,
    rest_maps,
    shut_beyond,
    to_box,
)
from .tiny import Motion

PORTRAIT = (96, 128)  # pixels of the box that the network sees of the portrait
LATENTS = (6, 8)  # points at which latents are read
TEXTURE = (64, 96)  # rows and columns of the teeth's texture
SUB_FRAMES = 4  # frames of a latent
OWN = (0.4, 0.75)  # share of this network in the flow, across and down: the face's own says better where the whole mouth has gone


class MouthSight(NamedTuple):
    """What T frames show in the box."""

    features: Tensor  # (T, a, *GRID)
    flow: Tensor  # (T, 2, *GRID) the face's own, box units
    latents: Tensor  # (T, 2C, *LATENTS)


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
        x = self.portrait(torch.cat([self.see(crops.to(kind) * 2 - 1), rest_maps(geometry).to(kind)], 1))
        change = along_lips(self.to_curves(x).float().unflatten(1, (-1, 2)), near_lips(geometry.lips)[:, None])
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
        carried = carried_lips(skull, geometry)
        rough = share.lips + carried[:, None] + _sum(weights, share.curves)
        left = self.leave(self.body(self.enter(torch.cat([seen.features, seen.flow * 10], 1).to(kind)) + share.still)).float() * 0.1
        lips = shut_beyond(rough + along_lips(left[:, 4:], near_lips(rough)), geometry.corners)
        own = _sum(weights, share.flows) + left[:, :4]
        own = own - torch.stack([skull[:, 1:2].expand_as(carried), carried] * 2, 1)[:, :, None]
        face = seen.flow.repeat(1, 2, 1, 1)
        flows = torch.lerp(face, own, inner_window(own) * own.new_tensor(OWN).repeat(2).view(4, 1, 1))
        flows = one_beyond(meeting(flows, lips, share.lips, geometry.corners), lips, geometry.corners)
        return MouthFields(lips=lips, flows=flows, skull=skull, light=1 + said[:, -1:])

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
        where = box_rectangle(geometry, side)
        points = to_box(rectangle_points(where, side, picture)[None], geometry.box)
        picture, part = fetched_part(picture, where, geometry, round(0.5 * reach) + 2)
        return MouthState(
            where=where, geometry=geometry, share=share, textures=self.textures(share.tint),
            parted=bool((share.lips[:, 1] - share.lips[:, 0]).amax() > SLIT[1]), picture=picture, part=part, reach=reach,
            points=points, base=from_box(points, part).permute(0, 3, 1, 2), weight=feather(points))

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
        fields = self.seen(motion, state, place)
        return mouth_pixels(fields, state), state.weight.expand(len(fields.lips), -1, -1, -1)

    def seen(self, motion: Motion, state: MouthState, place: Tensor | None = None) -> MouthFields:
        """`fields` of a prepared portrait's motion."""
        return self.fields(mouth_sight(motion, state.geometry), state.share, state.geometry, place)


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


def _sum(weights: Tensor, basis: Tensor) -> Tensor:
    """Weighted sums (T, ...) of the bases (1 or T, K, ...) of portraits."""
    flat = basis.flatten(2)
    summed = weights @ flat[0] if len(flat) == 1 else (weights[:, None] @ flat)[:, 0]
    return summed.view(len(weights), *basis.shape[2:])
