"""Flow matching of the denoiser under the sparse causal mask, exactly as the sampler runs it.

Sequences are c0, c(t-1), c(t) of one clip at the positions a stream gives them, one timestep for all three
(paper section 4.2). Clips are drawn, encoded and kept in a bank that is renewed while training. The loss is
on the clean latents, weighted to the mouth, with the noise level often at its highest, where few-step
sampling begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..model.audio_projector import AudioProjector
from ..model.conditioning import make_reference
from ..model.dit import TalkingDiT
from ..model.rope import stream_positions
from ..vae.tiny import TinyVAE
from . import landmarks as lm
from .checkpoint import Average, load_checkpoint, save_checkpoint
from .data import PAD, Inputs, Speech, draw_clip, tracks
from .generator import Heads, inside, new_person, pixel_grid, soften
from .listen import augment

log = logging.getLogger(__name__)

CHUNKS = 8  # of a clip in the bank
RATE = 1e-3
LISTENING = 0.08  # share of clips in which the face listens: zero embedding, lips at rest


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One encoded clip of F = CHUNKS * n latents."""

    latents: Tensor  # (C, F, h, w) float16
    reference: Tensor  # (C, h, w)
    weight: Tensor  # (h, w) of the loss
    face_mask: Tensor  # (S,)
    first_frame: int  # in the speech
    speaking: Tensor  # (F,) False where the lips rest for the whole latent
    listens: bool


@dataclass(kw_only=True)
class Bank:
    """The newest `size` clips."""

    size: int
    clips: list[Clip] = field(default_factory=list)
    added: int = 0

    def add(self, clip: Clip) -> None:
        """Take a clip in, the oldest out."""
        if len(self.clips) < self.size:
            self.clips.append(clip)
        else:
            self.clips[self.added % self.size] = clip
        self.added += 1


def face_tokens(points: Tensor, cfg: ModelConfig) -> Tensor:
    """(S,) share of each token in the face, the jaw's reach below the chin included; points (468, 3) normalised."""
    side = cfg.height
    oval = points[list(lm.OVAL), :2]
    centre = oval.mean(0)
    down = (points[152, :2] - points[10, :2]) * 0.08
    low = ((oval - centre) @ down > 0).float()[:, None]
    mask = soften(inside(centre + (oval - centre) * 1.05 + low * down, side), side // 32)
    return F.adaptive_avg_pool2d(mask, cfg.token_hw).flatten()


def loss_weight(head: Heads, cfg: ModelConfig) -> Tensor:
    """(h, w): 1, more on the eyes, most on the mouth and jaw."""
    height, width = cfg.latent_hw
    grid = F.adaptive_avg_pool2d(pixel_grid(cfg.height).permute(2, 0, 1), (height, width)).permute(1, 2, 0)
    tall = head.height[0].cpu()

    def blob(indices: tuple[int, ...], reach: float) -> Tensor:
        centre = head.points[0, list(indices), :2].mean(0).cpu()
        return torch.exp(-((((grid - centre) ** 2).sum(-1) / (reach * tall) ** 2) ** 2))

    mouth = blob((*lm.UPPER, *lm.LOWER), 0.28)
    eyes = blob(lm.LID[:7], 0.13) + blob(lm.LID[7:], 0.13)
    return (1 + 12 * mouth + 2 * eyes).to(head.points.device)


@torch.no_grad()
def make_clip(vae: TinyVAE, inputs: Inputs, cfg: ModelConfig, seed: int, *, motion: float, person: Heads | None = None) -> Clip:
    """A new person says a random stretch of speech (or listens to it)."""
    rng = torch.Generator().manual_seed(seed)
    speech, latents = inputs.speech, CHUNKS * cfg.sampler.chunk_latents
    frames = 1 + 4 * (latents - 1)
    usable = speech.utterances(frames + 2 * (PAD - 12))
    u = usable[int(torch.randint(len(usable), (1,), generator=rng))]
    low, high = int(speech.starts[u]) + 12, int(speech.starts[u + 1]) - 12 - frames
    first = int(torch.randint(low, high + 1, (1,), generator=rng))
    listens = torch.rand(1, generator=rng).item() < LISTENING
    head = person if person is not None else new_person(inputs.faces, rng)
    device = head.texture.device
    weights = tracks(speech, first, frames, cfg.fps, seed, motion, silent=listens).to(device)
    still = torch.zeros(1, weights.shape[1], device=device)
    pictures = draw_clip(head, torch.cat([still, weights]), cfg.height)
    portrait, clip = pictures[:1], pictures[1:]
    raw = vae.encode_clip(clip[None])
    reference = vae.still(vae.frame(portrait))
    open_frames = torch.cat([weights[:1, :6].sum(1).expand(3), weights[:, :6].sum(1)]) > 0.02
    speaking = open_frames.view(-1, 4).any(1)
    speaking = F.max_pool1d(speaking.float()[None, None], 3, 1, 1)[0, 0] > 0
    return Clip(
        latents=vae.normalise(raw)[0].half(), reference=vae.normalise(reference[:, :, None])[0, :, 0],
        weight=loss_weight(head, cfg), face_mask=face_tokens(head.points[0], cfg), first_frame=first,
        speaking=speaking, listens=listens,
    )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B sequences of three chunks, 3n latents."""

    x0: Tensor  # (B, C, 3n, h, w)
    reference: Tensor  # (B, 20, 3n, h, w)
    windows: Tensor  # (B, 3n, W, M)
    heard: Tensor  # (B, 3n) 0 where the embedding is zero
    face_mask: Tensor  # (B, S)
    weight: Tensor  # (B, 1, 1, h, w), mean 1
    positions: list[int]


def assemble(clips: list[Clip], speech: Speech, cfg: ModelConfig, chunk: int, rng: torch.Generator, *, clean: bool = False) -> Batch:
    """Chunks 0, chunk - 1 and chunk (>= 2) of each clip; `clean`: the sound as it is, pauses heard."""
    n = cfg.sampler.chunk_latents
    latents = [*range(n), *range((chunk - 1) * n, (chunk + 1) * n)]
    device = clips[0].latents.device
    starts = torch.tensor([[c.first_frame + 4 * i - 11 for i in latents] for c in clips], device=device)
    rows = speech.features(starts.flatten(), 20)
    rows = rows.unflatten(0, starts.shape)
    heard = torch.stack([c.speaking[latents] for c in clips]).float()
    if not clean:
        rows = augment(rows.flatten(1, 2), rng).view_as(rows)
        pauses = (torch.rand(len(clips), 1, generator=rng) < 0.5).float().to(device)
        heard = heard * pauses + (1 - pauses)  # a pause is a zero embedding, or heard as the silence it is
    heard = heard * torch.tensor([[0.0 if c.listens else 1.0] for c in clips], device=device)
    weight = torch.stack([c.weight for c in clips])
    weight = weight / weight.mean((1, 2), keepdim=True)
    return Batch(
        x0=torch.stack([c.latents[:, latents] for c in clips]).float(),
        reference=make_reference(torch.stack([c.reference for c in clips]), latents), windows=rows, heard=heard,
        face_mask=torch.stack([c.face_mask for c in clips]), weight=weight[:, None, None],
        positions=[i for part in stream_positions(chunk, n, cfg.dit.max_latents) for i in part],
    )


def noise_levels(batch: int, rng: torch.Generator) -> Tensor:
    """(B,) sigmas: a third at 1, the rest leaning high."""
    u = torch.rand(batch, generator=rng)
    return torch.where(torch.rand(batch, generator=rng) < 0.35, torch.ones(batch), 3 * u / (1 + 2 * u)).clamp(min=0.02)


class Denoiser(nn.Module):
    """What is trained together: the transformer and the audio projector (its trunk stays as it was pre-trained)."""

    def __init__(self, cfg: ModelConfig, projector: AudioProjector) -> None:
        super().__init__()
        self.dit = TalkingDiT(cfg.dit)
        self.dit.init_weights()
        self.projector = projector
        self.projector.trunk.requires_grad_(False)
        self.chunk_latents, self.text_dim = cfg.sampler.chunk_latents, cfg.dit.text_dim

    def forward(self, batch: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
        """Clean latents (B, C, F, h, w) seen in the noised batch."""
        s = sigma.view(-1, 1, 1, 1, 1)
        x = (1 - s) * batch.x0 + s * noise
        with torch.no_grad():
            features = self.projector.trunk(batch.windows.flatten(0, 1)).unflatten(0, batch.windows.shape[:2])
        tokens = self.projector.embed(features) * batch.heard[..., None, None]
        text = torch.zeros(len(x), 1, self.text_dim, device=x.device)
        return self.dit.forward_x0(x, sigma, reference=batch.reference, text=text, audio=tokens, face_mask=batch.face_mask,
                                   positions=batch.positions, chunk_latents=self.chunk_latents)


def weighted_error(made: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of the clean latents, weighted to the mouth."""
    return ((made - batch.x0) ** 2 * batch.weight).mean()


@torch.no_grad()
def examine(model: Denoiser, exam: list[Clip], speech: Speech, cfg: ModelConfig) -> dict[str, float]:
    """From pure noise on held-out voices and faces: error as a share of a still portrait's, right and wrong sound."""
    rng = torch.Generator().manual_seed(5)
    batch = assemble(exam, speech, cfg, 4, rng, clean=True)
    noise = torch.randn(batch.x0.shape, generator=rng).to(batch.x0.device)
    sigma = torch.ones(len(exam), device=batch.x0.device)
    still = ((batch.reference[:, 4:] - batch.x0) ** 2 * batch.weight).mean()
    right = weighted_error(model(batch, sigma, noise), batch)
    other = Batch(**{**batch.__dict__, "windows": batch.windows.roll(1, 0), "heard": batch.heard.roll(1, 0)})
    wrong = weighted_error(model(other, sigma, noise), batch)
    return {"held_right": round((right / still).item(), 4), "held_wrong": round((wrong / still).item(), 4)}


def train_flow(
    cfg: ModelConfig, inputs: Inputs, held: Inputs, vae: TinyVAE, projector: AudioProjector, out: Path, *, minutes: float,
    device: str, batch: int = 6, bank_size: int = 600, first_clips: int = 60, renew_every: int = 3, exam_clips: int = 12,
    motion: float = 0.0, resume: bool = True, report: Callable[[dict[str, Any]], None] = lambda _: None, seed: int = 0,
    checkpoint_minutes: float = 5.0, start: TalkingDiT | None = None, most_steps: int | None = None, report_every: int = 50,
) -> Denoiser:
    """Train for `minutes` of wall time or `most_steps`, the first clips' drawing included.

    Goes on from the checkpoint `out` when it is there, else from the weights of `start`, if any.
    """
    torch.manual_seed(seed)
    model = Denoiser(cfg, projector).to(device)
    if start is not None:
        model.dit.load_state_dict(start.state_dict())
    average = Average(model, 0.997)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    info: dict[str, Any] = {"step": 0, "curve": [], "minutes": 0.0}
    if resume and out.is_file():
        info = load_checkpoint(out, model, average, optimiser)
    rng = torch.Generator().manual_seed(seed + info["step"])
    began = saved = time.monotonic()
    if minutes <= 0:
        model.load_state_dict({k: v.to(device) for k, v in average.weights.items()})
        return model.eval()
    before, bank = info["minutes"], Bank(size=bank_size)
    base = 10_000_000 + 1000 * info["step"]
    for i in range(first_clips):
        bank.add(make_clip(vae, inputs, cfg, base + i, motion=motion))
    exam = [make_clip(vae, held, cfg, 77 + i, motion=0.0) for i in range(exam_clips)]
    log.info("bank of %d clips drawn in %.0f s", first_clips, time.monotonic() - began)
    total, count = torch.zeros((), device=device), 0
    last = math.inf if most_steps is None else info["step"] + most_steps
    while (spent := (time.monotonic() - began) / 60) < minutes and info["step"] < last:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (info["step"] + 1) / 100) * min(1.0, 0.03 + 1.6 * (1 - spent / minutes))
        if info["step"] % renew_every == 0:
            bank.add(make_clip(vae, inputs, cfg, base + bank.added, motion=motion))
        chosen = [bank.clips[i] for i in torch.randint(len(bank.clips), (batch,), generator=rng).tolist()]
        data = assemble(chosen, inputs.speech, cfg, int(torch.randint(2, CHUNKS, (1,), generator=rng)), rng)
        sigma = noise_levels(batch, rng).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            made = model(data, sigma, torch.randn(data.x0.shape, generator=rng).to(device))
        loss = weighted_error(made, data)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        info["step"] += 1
        total, count = total + loss.detach(), count + 1
        if info["step"] % report_every == 0:
            info["minutes"] = round(before + spent, 2)
            point = {"step": info["step"], "minutes": info["minutes"], "loss": round((total / count).item(), 5)}
            total, count = torch.zeros((), device=device), 0
            if info["step"] % (2 * report_every) == 0:
                point.update(examine(model, exam, held.speech, cfg))
            info["curve"].append(point)
            report(point)
        if time.monotonic() - saved > 60 * checkpoint_minutes:
            save_checkpoint(out, model, average, optimiser, info)
            saved = time.monotonic()
    info["minutes"] = round(before + (time.monotonic() - began) / 60, 2)
    save_checkpoint(out, model, average, optimiser, info)
    model.load_state_dict({k: v.to(device) for k, v in average.weights.items()})
    return model.eval()
