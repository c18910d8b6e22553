"""A face drawn at any size: the motion that latents carry moves the pixels of the picture itself.

The autoencoder decides motion on its own small grid; here its flow is enlarged and applied to the picture at the size of the
video, so skin, hair and eyes stay as sharp as they were given. Only pixels that the face may move are drawn, all others are the
picture's to the bit. Not part of the paper, whose autoencoder decodes pixels (section 3).

Shapes: T frames, H x W the picture, h x w the part of it that is drawn, g the side of the flow's grid.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..face.eyes import close_lids, eye_box, turn_eyes
from ..face.life import FaceLife
from .mouth_drawing import MouthFields, MouthState, mouth_pixels
from .mouth_head import MouthHead
from .mouth_raster import MouthRaster
from .tiny import Motion, TinyDecoderState, TinyVAE
from .warping import Enlargement, FaceWarp, PixelBox, Texture, WarpPlan

Box = tuple[float, float, float, float]
REACH = 0.12  # of the crop's side: from how far away a pixel may come
LEVELS, LOOKS, EYE_ROOM = 16, 64, 0.35  # degrees of closure; looks of an eye that are kept; eye widths round an eye
CHEEK_BONES, HEAD, HEAD_ENDS = (234, 454), 1.1, 1.7  # landmarks a face's width apart; the head's radii over the face's, and where it ends
LEAST_PAINT = 0.02  # share below which paint is not worth drawing
CRISP = 2.2  # the paint's share was learned at 128 pixels: its edge is made steeper before it is enlarged


@dataclass(frozen=True, kw_only=True)
class FaceView:
    """What a face is drawn on: a picture (H, W, 3) uint8 and where in it the crop lies that the model animates.

    `box` (x0, y0, x1, y1) counts the picture's pixel edges, it may be fractional and go beyond the picture. `landmarks` (468, 3)
    are in the picture's pixels. `share` (n, n) in 0..1 over the box: how much of the motion counts there, 0 at its edge. `life`: what
    the face does besides speaking; None: nothing. `light`: the model saw the portrait in so much more of each colour.
    """

    picture: np.ndarray
    box: Box
    landmarks: np.ndarray
    share: np.ndarray
    life: FaceLife | None = None
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


class FaceRenderer:
    """One face on one picture: everything that depends on these alone, prepared once."""

    def __init__(self, vae: TinyVAE, view: FaceView, reference: Tensor) -> None:
        """`reference` (3, 128, 128) in 0..1 is the portrait as the autoencoder sees it, where it computes."""
        self._vae, self._reference, self._view = vae, reference, view
        grid = reference.shape[-1] // 2
        device = reference.device
        self.share = F.interpolate(
            torch.from_numpy(np.ascontiguousarray(view.share, np.float32))[None, None], size=(grid, grid), mode="area")[0, 0].to(device)
        self.rect = _moving_rect(self.share.cpu().numpy(), view)
        self._plan = WarpPlan.of(self.rect, view.box, grid, device)
        x0, y0, x1, y1 = self.rect
        room = [round(REACH * (view.box[k + 2] - view.box[k])) for k in (0, 1)]
        height, width = view.picture.shape[:2]
        left, top, right, bottom = max(0, x0 - room[0]), max(0, y0 - room[1]), min(width, x1 + room[0]), min(height, y1 + room[1])
        self._texture = self._plan.texture(view.picture[top:bottom, left:right], (left, top))
        self._sway = _sway_fields(view, grid, self.share.cpu().numpy()).to(device)
        self._mouth = None
        if isinstance(vae.mouth, MouthHead):
            self._mouth = _Mouth.of(vae.mouth, view, self.share, self._plan, self._texture)
        self._eyes = [EyePatch.of(view, eye, (left, top, right, bottom), self._plan) for eye in (0, 1)] if view.life else []

    def open(self) -> TinyDecoderState:
        """State before the first latent."""
        return self._vae.open_decoder(self._reference)

    def __call__(
        self, latents: Tensor, state: TinyDecoderState, first: int = 0, speaking: np.ndarray | None = None, every: int = 1,
    ) -> tuple[np.ndarray, TinyDecoderState]:
        """Frames (T, H, W, 3) uint8 of the next latents (1, C, F, h, w), and the state after them.

        `first` is the number of the first frame, `speaking` (T,) in 0..1 how much is said in each. `every` 2: every second one
        is made and shown twice, for about half of the work.
        """
        motion, state = self._vae.motion(latents, state, every, paint=self._mouth is None)
        begins = len(motion.flow) * every % 4 and every > 1  # the first latent is one frame
        numbers = first + (0 if begins else every - 1) + every * np.arange(len(motion.flow))
        flow = self._flow(motion, numbers, np.ones(len(numbers)) if speaking is None else speaking[numbers - first])
        place = None if every == 1 else torch.from_numpy((numbers - 1 - numbers[-1]) % 4).to(flow.device)
        mouths = None if self._mouth is None else self._mouth.fields(motion._replace(flow=flow), place)
        frames = np.broadcast_to(self._view.picture, (len(numbers), *self._view.picture.shape)).copy()
        for begin in range(0, len(numbers), self._plan.at_once):
            piece = slice(begin, begin + self._plan.at_once)
            warp = self._plan.open(frames[piece], flow[piece])
            warp.warp(self._texture, self.rect)
            for eye in self._eyes:
                eye.draw(warp, numbers[piece])
            if mouths is None or self._mouth is None:
                self._paint(warp, motion.paint[piece])
            else:
                self._mouth.draw(warp, frames[piece], MouthFields(*(part[piece] for part in mouths)))
            warp.finish()
        if every > 1:
            frames = frames[np.clip(-(-(np.arange(first, numbers[-1] + 1) - numbers[0]) // every), 0, None)]
        return frames, state

    def _flow(self, motion: Motion, numbers: np.ndarray, speaking: np.ndarray) -> Tensor:
        """(T, 2, g, g): what the latents say and how the head sways, in frames of these numbers (T,)."""
        flow = motion.flow.float() * self.share
        if (life := self._view.life) is not None:
            sway = torch.from_numpy(life.sway(numbers, speaking)).to(flow)
            flow = flow + torch.einsum("td,dcyx->tcyx", sway, self._sway)
        return flow

    def _paint(self, warp: FaceWarp, paint: Tensor) -> None:
        """The mouth's inside over the warped face, as the autoencoder paints it at its own size."""
        paint = torch.sigmoid(F.pixel_shuffle(paint.float(), 2))
        share = F.interpolate(self.share[None, None], size=paint.shape[-2:], mode="bilinear", align_corners=False)
        over = ((paint[:, 3:] - 0.5) * CRISP + 0.5).clamp(0, 1) * share
        rows, columns = (np.flatnonzero((over > LEAST_PAINT).amax((0, 1)).any(axis).cpu().numpy()) for axis in (1, 0))
        if not len(rows):
            return
        (x0, across), (y0, down) = (
            self._band(int(cells[0]), int(cells[-1]) + 1, over.shape[-1], axis) for cells, axis in ((columns, 0), (rows, 1)))
        colour, over = (down @ t @ across.T for t in (paint[:, :3] * (255 / paint.new_tensor(self._view.light).view(3, 1, 1)), over))
        warp.lay(colour, over.clamp(0, 1), (x0, y0))

    def _band(self, first: int, last: int, count: int, axis: int) -> tuple[int, Tensor]:
        """The pixel at which the cells first..last of `count` over the box begin, and the weights that enlarge them there."""
        begin, extent = self._view.box[axis], self._view.box[axis + 2] - self._view.box[axis]
        low, high = (round(begin + cell * extent / count) for cell in (first - 1, last + 1))
        low, high = max(low, self.rect[axis]), max(low, min(high, self.rect[axis + 2]))
        return low, Enlargement.of(count, low, high, begin, extent).matrix(count).to(self.share)


@dataclass(frozen=True, kw_only=True)
class EyePatch:
    """One eye of a view, drawn anew wherever it is closed or turned; what it looked like is kept for as long as it is likely to return."""

    life: FaceLife
    eye: int
    picture: np.ndarray  # (h, w, 3) uint8 round the eye
    landmarks: np.ndarray  # (468, 3) in its pixels
    corner: tuple[int, int]  # its upper left pixel in the whole picture
    box: PixelBox  # of the whole picture, in which it may show
    plan: WarpPlan
    looks: dict[tuple[int, float, float], Texture] = field(default_factory=dict)

    @classmethod
    def of(cls, view: FaceView, eye: int, source: PixelBox, plan: WarpPlan) -> EyePatch:
        """An eye of a view whose pixels are fetched from `source` (x0, y0, x1, y1) of the picture."""
        assert view.life is not None
        seen, shown = (_clipped(eye_box(view.landmarks, eye, margin), source) for margin in (2 * EYE_ROOM, EYE_ROOM))
        return cls(
            life=view.life, eye=eye, picture=np.ascontiguousarray(view.picture[seen[1] : seen[3], seen[0] : seen[2]]),
            landmarks=view.landmarks - np.array([seen[0], seen[1], 0], np.float32), corner=(seen[0], seen[1]),
            box=_clipped(shown, plan.rect), plan=plan)

    def draw(self, warp: FaceWarp, numbers: np.ndarray) -> None:
        """Over the face in frames that have these numbers (T,)."""
        x0, y0, x1, y1 = self.box
        if x1 <= x0 or y1 <= y0 or min(self.picture.shape[:2]) < 2:
            return
        for index, number in enumerate(numbers.tolist()):
            closed, glance = round(self.life.closure(number) * LEVELS), self.life.glance(number)
            if closed or glance != (0.0, 0.0):
                warp.warp(self._look(closed, glance), self.box, index)

    def _look(self, closed: int, glance: tuple[float, float]) -> Texture:
        key = (closed, *glance)
        if key not in self.looks:
            if len(self.looks) >= LOOKS:
                self.looks.clear()
            turned = turn_eyes(self.picture, self.landmarks, glance, [self.eye])
            drawn = close_lids(turned, self.landmarks, closed / LEVELS, [self.eye])
            self.looks[key] = self.plan.texture(drawn, self.corner)
        return self.looks[key]


@dataclass(frozen=True, kw_only=True)
class _Mouth:
    """The mouth of a view, drawn over the warped face by a head of its own."""

    head: MouthHead
    state: MouthState
    corner: tuple[int, int]  # x, y of its first pixel in the picture
    share: Tensor  # (1, 1, h, w) over the warped face
    cut: tuple[slice, slice]  # rows and columns of what the head draws that lie there
    raster: MouthRaster | None  # where frames are written as bytes

    @classmethod
    def of(cls, head: MouthHead, view: FaceView, share: Tensor, plan: WarpPlan, texture: Texture) -> _Mouth:
        """Prepared once: what the portrait alone says. The picture's edge is repeated where the crop goes beyond it.

        It computes in float32 whatever the model does: in half precision a contour would be off by pixels.
        """
        if next(head.parameters()).dtype is not torch.float32:
            head = copy.deepcopy(head).float()
        x0, y0, side = square_of(view.box)
        height, width = view.picture.shape[:2]
        rows, columns = np.clip(np.arange(y0, y0 + side), 0, height - 1), np.clip(np.arange(x0, x0 + side), 0, width - 1)
        picture = torch.from_numpy(view.picture[rows[:, None], columns[None]]).permute(2, 0, 1).to(share.device).float() / 255
        landmarks = torch.from_numpy(view.landmarks - np.array([x0, y0, 0], np.float32)).to(share.device)
        state = head.prepare(picture, landmarks)
        whole = state.where[0] + x0, state.where[1] + y0, state.where[2] + x0, state.where[3] + y0
        seen = _clipped(whole, plan.rect)
        across, down = (
            Enlargement.of(len(share), seen[k], seen[k + 2], view.box[k], view.box[k + 2] - view.box[k]).matrix(len(share)).to(share)
            for k in (0, 1))
        cut = slice(seen[1] - whole[1], seen[3] - whole[1]), slice(seen[0] - whole[0], seen[2] - whole[0])
        corner, over = (seen[0], seen[1]), state.weight[..., cut[0], cut[1]] * (down @ share @ across.T).clamp(0, 1)
        raster = None
        if plan.writes_bytes:
            raster = MouthRaster.of(state, texture, corner, over[0, 0].numpy(), cut, (x0, y0, side))
        return cls(head=head, state=state, corner=corner, share=over, cut=cut, raster=raster)

    def fields(self, motion: Motion, place: Tensor | None = None) -> MouthFields:
        """Where everything is in a motion's frames; `place` as for MouthHead.fields."""
        return self.head.seen(motion, self.state, place)

    def draw(self, warp: FaceWarp, frames: np.ndarray, fields: MouthFields) -> None:
        """Over the warped face, in frames (T, H, W, 3) or what is to become of them."""
        if self.raster is not None:
            self.raster.draw(frames, fields)
        else:
            warp.lay(mouth_pixels(fields, self.state)[..., self.cut[0], self.cut[1]] * 255, self.share, self.corner)


def square_of(box: Box) -> tuple[int, int, int]:
    """x0, y0 and the side in whole pixels of the square that a crop's box is, to half a pixel."""
    return round(box[0]), round(box[1]), max(1, round((box[2] - box[0] + box[3] - box[1]) / 2))


def _clipped(box: Box, limits: PixelBox) -> PixelBox:
    """Whole pixels of a box that lie within limits."""
    x0, y0 = max(limits[0], int(np.floor(box[0]))), max(limits[1], int(np.floor(box[1])))
    return x0, y0, max(x0, min(limits[2], int(np.ceil(box[2])))), max(y0, min(limits[3], int(np.ceil(box[3]))))


def _sway_fields(view: FaceView, grid: int, share: np.ndarray) -> Tensor:
    """(5, 2, g, g): flow of a unit of yaw, pitch, roll and of shifts by the face's width; the head turns, the picture's edge stays."""
    x0, y0, x1, y1 = view.box
    points = (view.landmarks[:, :2] + 0.5 - np.array([x0, y0])) / np.array([x1 - x0, y1 - y0]) * 2 - 1
    wide = float(np.hypot(*(points[CHEEK_BONES[0]] - points[CHEEK_BONES[1]])))
    low, high = points.min(0), points.max(0)
    centre, radius = (low + high) / 2, np.maximum((high - low) / 2, 1e-3) * HEAD
    line = (np.arange(grid) * 2 + 1) / grid - 1
    x, y = np.meshgrid(line, line)
    far = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2
    with_head = np.clip((HEAD_ENDS - np.sqrt(far)) / (HEAD_ENDS - 1), 0, 1)
    with_head = with_head * with_head * (3 - 2 * with_head) * share
    depth = wide / 2 * np.sqrt(np.clip(1 - 0.8 * far, 0, 1))
    zero, turn = np.zeros_like(x), np.stack([y - centre[1], centre[0] - x])
    fields = [np.stack([depth, zero]), np.stack([zero, depth]), turn, np.stack([zero + wide, zero]), np.stack([zero, zero + wide])]
    return torch.from_numpy((-np.stack(fields) * with_head).astype(np.float32))


def _moving_rect(share: np.ndarray, view: FaceView) -> tuple[int, int, int, int]:
    """The picture's pixels (x0, y0, x1, y1) in which something may move: a grid point reaches two cells far."""
    grid = len(share)
    height, width = view.picture.shape[:2]
    rows, columns = (np.flatnonzero((share > 0).any(axis)) for axis in (1, 0))
    x0, y0, x1, y1 = view.box
    kx, ky = (x1 - x0) / grid, (y1 - y0) / grid
    left, right = (float(x0 + (c + 0.5 + d) * kx) for c, d in ((columns[0], -2), (columns[-1], 2)))
    top, bottom = (float(y0 + (c + 0.5 + d) * ky) for c, d in ((rows[0], -2), (rows[-1], 2)))
    return max(0, int(np.floor(left))), max(0, int(np.floor(top))), min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))
