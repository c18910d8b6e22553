"""Training of the tiny autoencoder on generated clips: L1 where it matters, and a smooth latent.

Latents are noised while training, so that near latents decode to near pictures and the denoiser's small
errors stay small; the mouth and the eyes, small in the picture, count more.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..vae.tiny import Decoded, TinyVAE
from . import landmarks as lm
from .checkpoint import Average, load_checkpoint, save_checkpoint
from .dataset import Inputs, tracks
from .generator import draw
from .mixed_precision import mixed_precision
from .people import new_person
from .sequences import loss_weight
from .still_heads import Heads, cat_heads, pixel_grid
from .visemes import SHAPES

log = logging.getLogger(__name__)

LATENT_NOISE = 0.1  # of the spread of what moves
MOTION = (0.3, 0.8, 0.0, 0.5)  # how lively the heads of successive steps are
STILL_STEPS = 250  # mouths first: heads that move hide them from a young network
CLIP = 5  # frames: latents 0 and 1, or any two neighbours
CROP = 64  # side of the piece of picture a step sees; the network is convolutional
RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class RenderedClips:
    """B clips of T frames, how they were drawn, and the portraits they start from."""

    frames: Tensor  # (B, T, 3, H, W)
    flow: Tensor  # (B, T, 2, H, W) offset into the portrait
    mouth: Tensor  # (B, T, 1, H, W) share of painted mouth
    portraits: Tensor  # (B, 3, H, W)


def random_clips(heads: Heads, inputs: Inputs, seed: int, cfg: ModelConfig, frames: int, motion: float) -> RenderedClips:
    """One clip of each head speaking a random stretch of speech."""
    rng = torch.Generator().manual_seed(seed)
    total, lead = len(inputs.speech.weights), 200
    first = torch.randint(0, total - frames, (len(heads.points),), generator=rng).tolist()
    poses = []
    for i, f in enumerate(first):
        life = tracks(inputs.speech, 0, lead + frames, cfg.fps, seed * 1000 + i, motion)[lead - f % 160 :][:frames]
        life[:, : len(SHAPES)] = inputs.speech.weights[f : f + frames].float().cpu()
        poses.append(life)
    pose = torch.stack(poses).to(heads.points.device)
    batch = len(first)
    index = torch.arange(batch, device=pose.device).repeat_interleave(frames)
    drawn = draw(heads[index], pose.flatten(0, 1), cfg.height)
    flow = (drawn.source - pixel_grid(cfg.height, pose.device)).permute(0, 3, 1, 2)
    portraits = draw(heads, torch.zeros_like(pose[:, 0]), cfg.height).frames
    split = (batch, frames)
    frame_axis = [t.unflatten(0, split) for t in (drawn.frames, flow, drawn.mouth)]
    return RenderedClips(frames=frame_axis[0], flow=frame_axis[1], mouth=frame_axis[2], portraits=portraits)


class RenderedClipBuffer:
    """The newest `size` clips, as small as they can be held, and random crops of them."""

    def __init__(self, size: int) -> None:
        self.size, self.added = size, 0
        self.parts: list[list[Tensor]] = []

    def add(self, clips: RenderedClips, heads: Heads) -> None:
        """Take clips in, the oldest out; mouths and eyes are where crops go."""
        spots = torch.stack([heads.points[:, list(g), :2].mean(1) for g in ((*lm.UPPER, *lm.LOWER), lm.LID[:7], lm.LID[7:])], 1)
        for i in range(len(clips.portraits)):
            flow = (clips.flow[i] * 64).half()
            part = [(clips.frames[i] * 255).byte(), flow, (clips.mouth[i] * 255).byte(), (clips.portraits[i] * 255).byte(), spots[i]]
            if len(self.parts) < self.size:
                self.parts.append(part)
            else:
                self.parts[self.added % self.size] = part
            self.added += 1

    def crops(self, batch: int, side: int, rng: torch.Generator) -> RenderedClips:
        """Crops of CROP pixels a side on the latent grid: mostly mouths, some eyes, some anywhere."""
        found: list[list[Tensor]] = []
        for pick in torch.randint(len(self.parts), (batch,), generator=rng).tolist():
            frames, flow, mouth, portrait, spots = self.parts[pick]
            kind, *jitter = torch.rand(3, generator=rng).tolist()
            spot = spots[0 if kind < 0.7 else 1 if kind < 0.8 else 2].tolist() if kind < 0.9 else [2 * j - 1 for j in jitter]
            place = [int(((c + 1) / 2 * side - CROP / 2 + (j - 0.5) * 24) / 8 + 0.5) * 8 for c, j in zip(spot, jitter, strict=True)]
            x, y = (min(max(c, 0), side - CROP) for c in place)
            found.append([t[..., y : y + CROP, x : x + CROP] for t in (frames, flow, mouth, portrait)])
        frames, flow, mouth, portrait = (torch.stack(t).float() for t in zip(*found, strict=True))
        return RenderedClips(frames=frames / 255, flow=flow / 64, mouth=mouth / 255, portraits=portrait / 255)


class LinearProbe(nn.Module):
    """Reads each cell's motion and mouth off a latent in one linear step, so that latents are simple; not kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels, 4 * 3, 1)

    def forward(self, moved: Tensor, truth: RenderedClips) -> Tensor:
        """L1 between what is read off moved (B, C, F, h, w) (less the portrait's latent) and the truth."""
        predicted = self.read(moved.transpose(1, 2).flatten(0, 1)).float()
        fields = torch.cat([truth.flow * 64, truth.mouth * 8], 2)
        fields = torch.cat([fields[:, :1].expand(-1, 3, -1, -1, -1), fields], 1)
        cells = F.avg_pool2d(fields.flatten(0, 1), 8)
        error: Tensor = (predicted - cells.unflatten(0, (-1, 4)).flatten(1, 2)).abs().mean()
        return error


def picture_loss(made: Decoded, truth: RenderedClips) -> Tensor:
    """L1 on pixels and their differences, and on the warp and the painted mouth, which the generator knows.

    The warp is not judged where the mouth is painted.
    """
    error = made.frames - truth.frames
    loss = error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    warp = ((1 - truth.mouth) * (made.flow - truth.flow).abs()).mean() * 64
    return loss + 0.1 * warp + 0.5 * (made.share - truth.mouth).abs().mean() + ((made.share - truth.mouth) ** 2).mean()


def _motion(step: int) -> float:
    return 0.0 if step < STILL_STEPS else MOTION[step % len(MOTION)]


class _Trained(nn.Module):
    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae, self.probe = vae, LinearProbe(vae.cfg.latent_channels)

    def loss(self, truth: RenderedClips) -> Tensor:
        vae = self.vae
        raw = vae.encode_clip(truth.frames)
        moved = raw - vae.still(vae.frame(truth.portraits))[:, :, None]
        noise = LATENT_NOISE * moved.detach().float().std() * torch.randn_like(raw)
        made = vae.decode_clip(raw + noise, truth.portraits)
        predicted: Tensor = self.probe(moved + noise, truth)
        return picture_loss(made, truth) + 0.1 * predicted + 1e-4 * (raw.float() ** 2).mean()


def _averaged(checkpoint: Path, model: _Trained, average: Average) -> TinyVAE:
    """The shipped copy of a checkpoint's autoencoder."""
    load_checkpoint(checkpoint, model, average, None)
    model.load_state_dict(average.weights)
    return model.vae.eval()


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """How the tiny autoencoder is trained; the first clips are drawn before the first step, `fresh` ones at each."""

    batch: int = 24
    fresh: int = 3
    people: int = 60
    buffer: int = 1200  # clips kept to draw from
    first_clips: int = 72
    report_every: int = 25
    seed: int = 0


def train_autoencoder(
    cfg: ModelConfig, inputs: Inputs, out: Path, *, minutes: float, device: str, most_steps: int | None = None, resume: bool = True,
    start: TinyVAE | None = None, training: AutoencoderTraining | None = None, report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TinyVAE:
    """Train for `minutes` of wall time or `most_steps`.

    Goes on from the checkpoint `out` when it is there, else from the weights of `start`, if any.
    """
    training = training or AutoencoderTraining()
    assert cfg.vae is not None
    torch.manual_seed(training.seed)
    vae = TinyVAE(cfg.vae)
    vae.init_output()
    if start is not None:
        vae.load_state_dict({k: v for k, v in start.state_dict().items() if not k.startswith("mouth.")})
    model = _Trained(vae).to(device)
    average = Average(model, 0.995)
    if minutes <= 0:
        return _averaged(out, model, average) if out.is_file() or start is None else vae.to(device).eval()
    _AutoencoderRun(cfg, inputs, out, model, average, training, device, resume).run(minutes, most_steps, report)
    return _averaged(out, model, average)


class _AutoencoderRun:
    """One run: its clips, its optimiser and what it has reached."""

    def __init__(
        self, cfg: ModelConfig, inputs: Inputs, out: Path, model: _Trained, average: Average, training: AutoencoderTraining, device: str,
        resume: bool,
    ) -> None:
        self.cfg, self.inputs, self.out, self.model, self.average = cfg, inputs, out, model, average
        self.training, self.device = training, device
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)
        self.info: dict[str, Any] = {"step": 0, "curve": [], "minutes": 0.0}
        if resume and out.is_file():
            self.info = load_checkpoint(out, model, average, self.optimiser)
        self.rng = torch.Generator().manual_seed(training.seed + self.info["step"])
        self.crowd = cat_heads([new_person(inputs.faces, self.rng) for _ in range(training.people)])
        self.clips = RenderedClipBuffer(training.buffer)

    def run(self, minutes: float, most_steps: int | None, report: Callable[[dict[str, Any]], None]) -> None:
        """Steps until the time or the steps are over; a checkpoint every two minutes and at the end."""
        began, saved, before = time.monotonic(), time.monotonic(), self.info["minutes"]
        total, count = torch.zeros((), device=self.device), 0
        for _ in range(0, self.training.first_clips, 12):
            self._draw(min(12, self.training.first_clips))
        last = math.inf if most_steps is None else self.info["step"] + most_steps
        while (spent := (time.monotonic() - began) / 60) < minutes and self.info["step"] < last:
            total, count = total + self._step(spent / minutes), count + 1
            if self.info["step"] % self.training.report_every == 0:
                self._report(round((total / count).item(), 5), round(before + spent, 2), report)
                total, count = torch.zeros((), device=self.device), 0
            if time.monotonic() - saved > 120:
                self._save()
                saved = time.monotonic()
        self._save()

    def _draw(self, number: int) -> None:
        """Clips of some of the crowd."""
        heads = self.crowd[torch.randint(0, self.training.people, (number,), generator=self.rng).to(self.device)]
        seed = self.training.seed + self.clips.added + 100_000 * (self.info["step"] + 1)
        with torch.no_grad():
            self.clips.add(random_clips(heads, self.inputs, seed, self.cfg, CLIP, _motion(self.info["step"])), heads)

    def _step(self, share_spent: float) -> Tensor:
        """One step's loss; resumed runs cool down to the end of their own budget."""
        step, people = self.info["step"], self.training.people
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * min(1.0, 0.05 + 2 * (1 - share_spent))
        if step % 6 == 5:  # people come and go
            self.crowd = cat_heads([self.crowd[torch.arange(1, people, device=self.device)], new_person(self.inputs.faces, self.rng)])
        self._draw(self.training.fresh)
        truth = self.clips.crops(self.training.batch, self.cfg.height, self.rng)
        with mixed_precision(self.device):
            loss = self.model.loss(truth)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.model)
        self.info["step"] += 1
        return loss.detach()

    def _report(self, loss: float, minutes: float, report: Callable[[dict[str, Any]], None]) -> None:
        self.info["minutes"] = minutes
        point = {"step": self.info["step"], "loss": loss, "minutes": minutes}
        self.info["curve"].append(point)
        report(point)

    def _save(self) -> None:
        save_checkpoint(self.out, self.model, self.average, self.optimiser, self.info)


@torch.no_grad()
def fit_scale(vae: TinyVAE, cfg: ModelConfig, inputs: Inputs, device: str, people: int = 24, motion: float = 0.4) -> None:
    """Set `shift` to the latents' mean and `scale` so that what moves has unit spread where the loss looks.

    Who it is takes ten times the spread; noise of that size would drown the motion.
    """
    rng = torch.Generator().manual_seed(7)
    heads = cat_heads([new_person(inputs.faces, rng) for _ in range(people)])
    clips = random_clips(heads, inputs, 7, cfg, CLIP, motion)
    raw, still = vae.encode_clip(clips.frames), vae.still(vae.frame(clips.portraits))[:, :, None]
    weight = torch.stack([loss_weight(heads[torch.tensor([i], device=device)], cfg) for i in range(people)])[:, None, None]
    moved = ((raw - still) ** 2 * weight).mean((0, 2, 3, 4)) / weight.mean()
    vae.shift.copy_(raw.mean((0, 2, 3, 4)))
    vae.scale.copy_(1 / moved.sqrt().clamp(min=1e-3))
