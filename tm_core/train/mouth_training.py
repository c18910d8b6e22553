"""Training of the mouth head on generated clips, everything else frozen; and what it is worth on people held out.

The truth of every field is known, so most of the loss compares places, in pixels of the box: contours, flows, the
skull. A part of each batch is drawn whole. Teeth are learned at their true places alone and held still in the drawn
part, or the network's errors of place would average them away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..vae.mouth_drawing import MouthFields, MouthState, PortraitShare, mouth_colour, mouth_pixels
from ..vae.mouth_geometry import GRID, TALL, MouthGeometry, at_rest, box_grid, from_box, to_box
from ..vae.mouth_head import MouthHead, MouthSight, mouth_sight
from ..vae.tiny import Motion, TinyVAE
from ..weights.loading import new_mouth_head
from .checkpoint import Average, load_checkpoint, save_checkpoint
from .dataset import SpeechDataset
from .generator import draw_mouth, skull_motion
from .mouth_clips import BOX, MARGIN, SIDE, MouthClip, mouth_clips, seen_motion, speech_poses
from .people import PackedFaces
from .still_heads import Heads, fit_head, pixel_grid

log = logging.getLogger(__name__)

PIXELS = BOX[1] / 2  # of a box unit
RATE = 2e-3
WEIGHTS = {"fields": 1.0, "contour_px": 0.0, "picture": 20.0, "texture": 8.0}  # of the losses
EDGE = 0.03  # box units over which a lip's side begins


def _stacked(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(t).float() for t in zip(*parts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class MouthBatch:
    """N clips of which some frames are seen, one of each drawn as a picture; `of` (T,) the clip of each frame."""

    sight: MouthSight
    place: Tensor  # (T,) of each frame in its latent
    crops: Tensor  # (N, 3, *PORTRAIT)
    geometry: MouthGeometry  # of each clip
    true_geometry: MouthGeometry
    margins: Tensor  # (N, 3, h, w)
    frames: Tensor  # (N, 3, *BOX)
    mouth: Tensor  # (N, 1, *BOX)
    drawn: Tensor  # (N,) which of the T frames they are
    truth: MouthFields
    true_skull: Tensor
    of: Tensor


def make_batch(clips: Sequence[MouthClip], frames: int, rng: torch.Generator) -> MouthBatch:
    """Some frames of each clip, open mouths more often."""
    picks, pictures = [], []
    for clip in clips:
        picture = int(torch.randint(len(clip.drawn), (1,), generator=rng))
        gap = (clip.lips[:, 1] - clip.lips[:, 0]).amax(1).clamp(min=0)
        others = torch.multinomial(gap + 0.05, frames - 1, replacement=True, generator=rng)
        picks.append(torch.cat([others, clip.drawn[picture : picture + 1]]))
        pictures.append(picture)
    chosen = list(zip(clips, picks, strict=True))
    lips, flows, skull, light, true_skull = _stacked([(c.lips[p], c.flows[p], c.skull[p], c.light[p], c.true_skull[p]) for c, p in chosen])
    seen, mouth = (
        torch.stack([getattr(c, name)[k] for c, k in zip(clips, pictures, strict=True)]).float() / 255 for name in ("frames", "mouth"))
    of = torch.arange(len(clips)).repeat_interleave(frames)
    light_of = [_other_light(rng) for _ in clips]
    wrong, true = (MouthGeometry(*_stacked(g)) for g in ([c.geometry for c in clips], [c.true_geometry for c in clips]))
    return MouthBatch(
        sight=MouthSight(*_stacked([tuple(t[p] for t in c.sight) for c, p in chosen])),
        place=torch.cat([(p - len(c.lips)) % 4 for c, p in chosen]), crops=_lit([c.crop for c in clips], light_of),
        geometry=wrong, true_geometry=true, margins=_lit([c.margin.float() / 255 for c in clips], light_of), frames=_lit(seen, light_of),
        mouth=mouth,
        drawn=torch.arange(1, len(clips) + 1) * frames - 1, truth=MouthFields(lips=lips, flows=flows, skull=skull, light=light),
        true_skull=true_skull, of=of)


def _other_light(rng: torch.Generator) -> Tensor:
    """(3, 1, 1) light by which a clip is seen, so that no portrait is ever the same."""
    both = torch.randn(4, generator=rng)
    return (0.15 * both[0] + 0.08 * both[1:]).exp().view(3, 1, 1)


def _lit(pictures: Sequence[Tensor] | Tensor, light: Sequence[Tensor]) -> Tensor:
    return torch.stack([(p * e).clamp(0, 1) for p, e in zip(pictures, light, strict=True)])


def _at(parts: Any, index: Tensor) -> Any:
    """A named tuple of tensors, each at `index` of its first axis."""
    return type(parts)(*(t[index] for t in parts))


def field_loss(made: MouthFields, share: PortraitShare, batch: MouthBatch) -> tuple[Tensor, Tensor]:
    """Mean error of places in box pixels, weighted by what is seen of them; and the contours' part of it."""
    truth, corners = batch.truth, batch.true_geometry.corners
    within = _within(corners)
    rest = _weighted((share.lips - batch.true_geometry.lips).abs(), within[:, None])
    within = within[batch.of][:, None]
    contour = _weighted((made.lips - truth.lips).abs(), within + 0.1)
    gap = _weighted((made.lips.diff(dim=1) - truth.lips.diff(dim=1)).abs(), within)
    y = box_grid(GRID[0], 1, truth.lips)[:, :, 1]
    sides = torch.stack([truth.lips[:, :1] - y, y - truth.lips[:, 1:]], 1)  # above the upper contour, below the lower one
    weight = torch.sigmoid(sides / EDGE) * (0.3 + torch.exp(-((sides / 0.25) ** 2))) + 0.02
    flows = (made.flows - truth.flows).abs().unflatten(1, (2, 2))
    flow = (flows * weight[:, :, None]).mean()
    skull = (made.skull - truth.skull).abs() * truth.skull.new_tensor([0.5, 1, 1])
    light = (made.light - truth.light).abs().mean()
    stray = ((made.lips.diff(dim=1) - truth.lips.diff(dim=1)).clamp(min=0) * (1 - within)).mean()  # a slit beyond the corners
    return PIXELS * (1.5 * contour + gap + 4 * stray + 3 * flow + 4 * skull.mean() + 0.5 * rest) + light, PIXELS * contour.detach()


def _within(corners: Tensor) -> Tensor:
    """(B, columns) 1 between the corners of the mouth, fading beyond."""
    columns = box_grid(1, GRID[1], corners)[0, :, 0]
    return torch.sigmoid((columns - corners[:, :1]) / EDGE + 1) * torch.sigmoid((corners[:, 1:] - columns) / EDGE + 1)


def _weighted(error: Tensor, weight: Tensor) -> Tensor:
    return (error * weight).sum() / (weight.expand_as(error).sum() + 1e-6)


def texture_loss(head: MouthHead, share: PortraitShare, batch: MouthBatch, most: int) -> Tensor:
    """L1 of the insides of the `most` widest mouths, 0..1, at true places; what the portrait itself shows is not asked for."""
    pick = batch.mouth.mean((1, 2, 3)).topk(min(most, len(batch.mouth))).indices
    at = batch.drawn[pick]
    geometry = _at(batch.true_geometry, pick)
    rows, columns = (slice(round(n * low), round(n * high)) for n, low, high in ((BOX[0], 0.15, 0.95), (BOX[1], 0.2, 0.8)))
    rest = at_rest(box_grid(*BOX, batch.frames)[None, rows, columns], geometry, batch.true_skull[at])
    apart = F.interpolate(_apart(batch.truth.lips[at]), size=BOX, mode="bilinear", align_corners=False)[..., rows, columns]
    light = batch.truth.light[at][..., None, None]
    colour = mouth_colour(head.textures(share.tint[pick]), rest, geometry, apart[:, :1], apart[:, 1:]) * light
    weight = batch.mouth[pick][..., rows, columns] ** 4 * (1 - _shown(rest, geometry))
    return ((colour - batch.frames[pick][..., rows, columns]).abs() * weight).sum() / (3 * weight.sum() + 100)


def _apart(lips: Tensor) -> Tensor:
    """(B, 2, *GRID) distances below the upper, above the lower contour."""
    y = box_grid(GRID[0], 1, lips)[:, :, 1]
    return torch.stack([y - lips[:, :1], lips[:, 1:] - y], 1)


def _shown(rest: Tensor, geometry: MouthGeometry) -> Tensor:
    """(T, 1, h, w) 1 where a point on the skull lies between the portrait's own lips."""
    look = rest / rest.new_tensor([1, TALL])
    return (F.grid_sample(_apart(geometry.lips), look, padding_mode="border", align_corners=False).amin(1, keepdim=True) > -0.01).float()


def batch_state(head: MouthHead, share: PortraitShare, batch: MouthBatch, pick: Tensor) -> MouthState:
    """What is needed to draw the pictures `pick` of a batch, each of its own portrait; the teeth are held still."""
    points = box_grid(*BOX, batch.frames)[None]
    part = torch.tensor([[[1 / MARGIN, 0], [0, 1 / (TALL * MARGIN)], [0, 0]]])
    teeth, jaw = head.textures(share.tint[pick])
    return MouthState(
        where=(0, 0, BOX[1], BOX[0]), geometry=_at(batch.geometry, pick), share=_at(share, pick), textures=(teeth.detach(), jaw.detach()),
        parted=True, picture=batch.margins[pick], part=part, reach=PIXELS, points=points,
        base=from_box(points, part).permute(0, 3, 1, 2), weight=points.new_ones(1, 1, *BOX))


def picture_loss(head: MouthHead, made: MouthFields, share: PortraitShare, batch: MouthBatch, most: int) -> Tensor:
    """L1 of pixels and of their differences in the first `most` pictures, the mouth and its surroundings more."""
    pick = torch.arange(min(most, len(batch.frames)))
    error = mouth_pixels(_at(made, batch.drawn[pick]), batch_state(head, share, batch, pick)) - batch.frames[pick]
    near = F.max_pool2d(F.avg_pool2d(batch.mouth[pick], 4), 7, 1, 3)
    weight = 1 + 4 * F.interpolate(near, scale_factor=4)
    half, weight_half = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    loss = (error.abs() * weight).mean()
    for e, w in ((error, weight), (half, weight_half)):
        loss = loss + (e.diff(dim=-1).abs() * w[..., 1:]).mean() + (e.diff(dim=-2).abs() * w[..., 1:, :]).mean()
    return loss


@dataclass(frozen=True, kw_only=True)
class MouthTraining:
    """How the mouth head is trained; clips of `people` are kept, the first before the first step, then one every few steps."""

    clips: int = 6  # of a batch
    frames: int = 4  # of each
    pictures: int = 4  # of a batch that are drawn whole, or looked into, in turn
    people: int = 400
    first_people: int = 12
    steps_a_person: int = 6  # few: what is seen often is learned by heart
    report_every: int = 50
    seed: int = 0


def untrained_head(vae: TinyVAE) -> MouthHead:
    """An untrained head for an autoencoder: lips stay at rest."""
    head = new_mouth_head(vae)
    head.init_output()
    head.spread.copy_(vae.scale.repeat(2))
    return head


def train_mouth(
    cfg: ModelConfig, vae: TinyVAE, faces: PackedFaces, speech: SpeechDataset, out: Path, *, minutes: float, most_steps: int | None = None,
    resume: bool = True, start: MouthHead | None = None, training: MouthTraining | None = None,
    report: Callable[[dict[str, Any]], None] = lambda _: None, exam: Callable[[MouthHead], dict[str, float]] | None = None,
) -> MouthHead:
    """Train for `minutes` of wall time or `most_steps`; goes on from the checkpoint `out`, else from `start`.

    `exam`: measures the averaged head whenever a checkpoint is written.
    """
    training = training or MouthTraining()
    torch.manual_seed(training.seed)
    head = untrained_head(vae)
    if start is not None:
        head.load_state_dict(start.state_dict())
    average = Average(head, 0.998)
    if minutes > 0:
        _MouthRun(cfg, vae, faces, speech, out, head, average, training, resume, exam).run(minutes, most_steps, report)
    elif out.is_file():
        load_checkpoint(out, head, average, None)
    head.load_state_dict(average.weights)
    return head.eval()


class _MouthRun:
    """One run: its people, its optimiser and what it has reached."""

    def __init__(
        self, cfg: ModelConfig, vae: TinyVAE, faces: PackedFaces, speech: SpeechDataset, out: Path, head: MouthHead, average: Average,
        training: MouthTraining, resume: bool, exam: Callable[[MouthHead], dict[str, float]] | None,
    ) -> None:
        self.cfg, self.vae, self.faces, self.speech, self.out = cfg, vae, faces, speech, out
        self.head, self.average, self.training, self.exam = head, average, training, exam
        textures = [head.teeth, head.jaw]
        others = [p for p in head.parameters() if all(p is not t for t in textures)]
        groups = [{"params": others, "times": 1.0}, {"params": textures, "times": 4.0, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)
        self.info: dict[str, Any] = {"step": 0, "curve": [], "minutes": 0.0}
        if resume and out.is_file():
            self.info = load_checkpoint(out, head, average, self.optimiser)
        self.clips: list[list[MouthClip]] = []

    def run(self, minutes: float, most_steps: int | None, report: Callable[[dict[str, Any]], None]) -> None:
        """Steps until the time or the steps are over; a checkpoint every two minutes and at the end."""
        began, saved, before = time.monotonic(), time.monotonic(), self.info["minutes"]
        steps_a_person, sums = self.training.steps_a_person, []
        number = self.info["step"] // steps_a_person
        for i in range(self.training.first_people):
            self._meet(number - 1 - i)
        last = math.inf if most_steps is None else self.info["step"] + most_steps
        while (spent := (time.monotonic() - began) / 60) < minutes and self.info["step"] < last:
            if self.info["step"] % steps_a_person == 0:
                self._meet(self.info["step"] // steps_a_person)
            sums.append(self._step(spent / minutes))
            self.info["minutes"] = round(before + spent, 2)
            if self.info["step"] % self.training.report_every == 0:
                self._report(sums, report)
                sums = []
            if time.monotonic() - saved > 120:
                self._save(report)
                saved = time.monotonic()
        self._save(report)

    def _meet(self, number: int) -> None:
        """A new person's clips, the oldest person out; number n is the same in every run."""
        seed = self.training.seed + 1000 + number
        self.clips.append(mouth_clips(self.vae, self.faces, self.speech, self.cfg, seed, self.out.with_suffix("")))
        self.clips = self.clips[-self.training.people :]

    def _step(self, spent: float) -> dict[str, float]:
        """One step's losses; resumed runs cool down to the end of their own budget."""
        step, training = self.info["step"], self.training
        for group in self.optimiser.param_groups:
            group["lr"] = group["times"] * RATE * min(1.0, (step + 1) / 50) * min(1.0, 0.03 + 1.6 * (1 - spent))
        rng = torch.Generator().manual_seed(training.seed + step)
        known = [clip for person in self.clips for clip in person]
        picks = torch.randint(len(known), (training.clips,), generator=rng).tolist()
        batch = make_batch([known[i] for i in picks], training.frames, rng)
        parts = batch_losses(self.head, batch, step % 2 == 0, training.pictures)
        loss = torch.stack(list(parts.values())) @ torch.tensor([WEIGHTS[k] for k in parts])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 5.0)
        self.optimiser.step()
        self.average.update(self.head)
        self.info["step"] += 1
        return {"loss": loss.item(), **{k: v.item() for k, v in parts.items()}}

    def _report(self, losses: list[dict[str, float]], report: Callable[[dict[str, Any]], None]) -> None:
        names = sorted({k for one in losses for k in one})
        found = {n: [one[n] for one in losses if n in one] for n in names}
        point = {"step": self.info["step"], **{n: round(sum(v) / len(v), 4) for n, v in found.items()}, "minutes": self.info["minutes"]}
        self.info["curve"].append(point)
        report(point)

    def _save(self, report: Callable[[dict[str, Any]], None]) -> None:
        save_checkpoint(self.out, self.head, self.average, self.optimiser, self.info)
        if self.exam is not None:
            shipped = new_mouth_head(self.vae)
            shipped.load_state_dict(self.average.weights)
            point = {"step": self.info["step"], **{f"held_{k}": round(v, 3) for k, v in self.exam(shipped.eval()).items()}}
            self.info["curve"].append(point)
            report(point)
            save_checkpoint(self.out, self.head, self.average, self.optimiser, self.info)


def batch_losses(head: MouthHead, batch: MouthBatch, look: bool, most: int) -> dict[str, Tensor]:
    """Losses by name: of places, and either of pictures drawn whole (`look`) or of what is in the mouths."""
    share = head.portrait_share(batch.crops, batch.geometry)
    made = head.fields(batch.sight, _at(share, batch.of), _at(batch.geometry, batch.of), batch.place)
    fields, contour = field_loss(made, share, batch)
    other = {"picture": picture_loss(head, made, share, batch, most)} if look else {"texture": texture_loss(head, share, batch, most)}
    return {"fields": fields, "contour_px": contour, **other}


# -- what it is worth -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HeldMouth:
    """A held-out person speaking: the portrait at SIDE pixels, its motion by the autoencoder, and the truth."""

    name: str
    head: Heads
    poses: Tensor  # (T, 13)
    landmarks: Tensor  # (468, 3) in pixels
    motion: Motion


def held_mouths(
    vae: TinyVAE, faces: PackedFaces, names: Sequence[str], speech: SpeechDataset, cfg: ModelConfig, *, frames: int = 49, most: int = 6,
) -> list[HeldMouth]:
    """Held-out people as they are, not blended, with held-out voices."""
    found = []
    for i, name in enumerate(names[:most]):
        head = fit_head(faces.images[i].float() / 255, faces.points[i], faces.shapes)
        poses = speech_poses(speech, cfg, 77_000 + i, frames, 0.6)
        landmarks = torch.cat([(head.points[0, :, :2] + 1) * SIDE / 2 - 0.5, head.points[0, :, 2:] * SIDE / 2], 1)
        found.append(HeldMouth(name=name, head=head, poses=poses, landmarks=landmarks, motion=seen_motion(vae, head, poses, cfg.height)))
    return found


@torch.inference_mode()
def draw_held(head: MouthHead, held: HeldMouth) -> dict[str, Tensor]:
    """The mouth's rectangle of one person: `made` by the head over `today`, `truth` and today's own `plain` truth, `mouth` share,
    `gap` (2, T) of the lips' middles and `skull` (2, T, 2) places of the gums, made and true, in pixels."""
    picture = held.head.texture[0]
    state = head.prepare(picture, held.landmarks)
    x0, y0, x1, y1 = state.where
    fields = head.fields(mouth_sight(held.motion, state.geometry), state.share, state.geometry)
    base = today(held.motion, picture)[..., y0:y1, x0:x1]
    grid = pixel_grid(SIDE)[y0:y1, x0:x1]
    kept: dict[str, list[Tensor]] = {name: [] for name in ("truth", "plain", "mouth", "lips", "skull")}
    for poses in held.poses.split(8):
        where = grid.expand(len(poses), -1, -1, -1)
        kept["plain"].append(draw_mouth(held.head, poses, SIDE, where, True).frames)
        drawn = draw_mouth(held.head, poses, SIDE, where)
        kept["truth"].append(drawn.frames)
        kept["mouth"].append(drawn.mouth)
        inner = to_box(drawn.points[:, [13, 14]], state.geometry.box.expand(len(poses), -1, -1))
        kept["lips"].append((inner[:, 1, 1] - inner[:, 0, 1]).clamp(min=0))
        kept["skull"].append(skull_motion(state.geometry, held.head.points[..., :2], drawn.skull))
    middle = (fields.lips[:, 1] - fields.lips[:, 0])[:, GRID[1] // 2 - 1 : GRID[1] // 2 + 1].mean(1).clamp(min=0)
    whole = {name: torch.cat(parts) for name, parts in kept.items()}
    return {
        "made": torch.lerp(base, mouth_pixels(fields, state), state.weight), "today": base, "weight": state.weight,
        "truth": whole["truth"], "plain": whole["plain"], "mouth": whole["mouth"],
        "gap": torch.stack([middle, whole["lips"]]) * state.reach,
        "skull": torch.stack([fields.skull, whole["skull"]])[..., 1:] * state.reach}


def today(motion: Motion, picture: Tensor) -> Tensor:
    """Frames (T, 3, S, S) as the autoencoder's own flow and paint draw them over a larger portrait, the share sharpened."""
    side = picture.shape[-1]

    def enlarged(maps: Tensor, mode: str) -> Tensor:
        return F.interpolate(maps, size=(side, side), mode=mode, align_corners=False)

    paint = enlarged(torch.sigmoid(F.pixel_shuffle(motion.paint, 2)), "bicubic").clamp(0, 1)
    share = ((paint[:, 3:] - 0.5) * 2.2 + 0.5).clamp(0, 1)
    where = pixel_grid(side) + enlarged(motion.flow, "bilinear").permute(0, 2, 3, 1)
    warped = F.grid_sample(picture.expand(len(where), -1, -1, -1), where, padding_mode="border", align_corners=False)
    return torch.lerp(warped, paint[:, :3], share)


def mouth_figures(drawn: dict[str, Tensor]) -> dict[str, float]:
    """Mean absolute errors 0..255 in the mouth, on the ring round it, in the box, today's beside; lip height, sharpness, jitter.

    Jitter is how much further teeth go from frame to frame than they should. Today's decoder is held against the mouth it was
    trained to paint.
    """
    mouth, weight = drawn["mouth"], (drawn["weight"] > 0).float()
    opened = mouth.mean((1, 2, 3)) > 0.005
    wide = F.max_pool2d(mouth[opened], 13, 1, 6)
    ring = (wide - mouth[opened]).clamp(0, 1)
    out: dict[str, float] = {}
    for name, of in (("made", "truth"), ("today", "plain")):
        error = (drawn[name] - drawn[of]).abs().mean(1, keepdim=True) * 255
        out[f"{name}_inside"] = float((error * mouth).sum() / mouth.sum())
        out[f"{name}_ring"] = float((error[opened] * ring).sum() / ring.sum())
        out[f"{name}_box"] = float((error * weight).sum() / (weight.sum() * len(error)))
    sharp = [(_detail(drawn[n][opened]) * wide).sum() for n in ("made", "truth")]
    made, true = drawn["skull"].diff(dim=1).norm(dim=-1).mean(1)
    return {
        **out, "inside": out["made_inside"] / out["today_inside"], "ring": out["made_ring"] / out["today_ring"],
        "lip_px": float((drawn["gap"][0] - drawn["gap"][1]).abs().mean()), "sharpness": float(sharp[0] / sharp[1]),
        "jitter_px": float(made - true)}


def _detail(pictures: Tensor) -> Tensor:
    """(T, 1, h, w) absolute Laplacian."""
    kernel = pictures.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None].expand(3, 1, 3, 3)
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=3).abs().mean(1, keepdim=True)


def evaluate_mouth(head: MouthHead, held: Sequence[HeldMouth]) -> dict[str, float]:
    """Means of `mouth_figures` over held-out people."""
    figures = [mouth_figures(draw_held(head, h)) for h in held]
    return {k: sum(f[k] for f in figures) / len(figures) for k in figures[0]}
