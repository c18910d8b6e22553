"""Pre-training of the audio trunk on phone labels and mouth weights.

At full scale a speech encoder trained on thousands of hours tells phones apart; here minutes of labelled
speech teach the same to one million weights, so that the transformer need not learn it from pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..model.audio_projector import AudioProjector
from .audio_augmentation import SAME, augment
from .checkpoint import Average, load_checkpoint, save_checkpoint
from .dataset import SpeechDataset
from .mixed_precision import mixed_precision
from .visemes import PHONES, SHAPES

FRAMES = 20  # of a window
RATE = 1.5e-3
WIDE = 26  # frames drawn, of which FRAMES are made at another pace
PACE = 0.22  # log range of how much faster or slower


class PhonemeClassifier(nn.Module):
    """The projector and a head that names phones and mouth weights; only the projector is kept."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        assert cfg.projector is not None
        self.projector = AudioProjector(cfg.projector)
        self.head = nn.Linear(cfg.projector.width, len(PHONES) + len(SHAPES))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Phone logits (B, T, 40) and mouth weights (B, T, 6) of rows (B, 4T, M)."""
        out = self.head(F.gelu(self.projector.trunk(rows)))
        return out[..., : len(PHONES)], out[..., len(PHONES) :]


def label_batch(speech: SpeechDataset, batch: int, rng: torch.Generator, *, paces: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows (B, 80, M), labels (B, 20), weights (B, 20, 6) and trust (B,) of random windows; `paces`: slower and faster."""
    device, wide = speech.rows.device, WIDE if paces else FRAMES
    first = torch.randint(0, len(speech.weights) - wide, (batch,), generator=rng)
    owner = torch.searchsorted(speech.starts, first, right=True) - 1
    trust = speech.trusted.cpu()[owner].float().to(device)
    first = first.to(device)
    index = first[:, None] + torch.arange(wide, device=device)
    rows, labels, weights = speech.features(first, wide), speech.labels[index].long(), speech.weights[index].float()
    if not paces:
        return rows, labels, weights, trust
    pace = torch.exp((2 * torch.rand(batch, 1, generator=rng) - 1) * PACE * (torch.rand(batch, 1, generator=rng) > SAME))
    start = torch.rand(batch, 1, generator=rng) * (WIDE - FRAMES * pace).clamp(min=0)
    pace, start = pace.to(device), start.to(device)
    frames, rest = (torch.arange(n, device=device) + 0.5 for n in (FRAMES, 4 * FRAMES))
    when = start + frames * pace - 0.5
    heard = _read(rows, 4 * (start + rest / 4 * pace) - 0.5)
    return heard, labels.gather(1, when.round().long().clamp(0, WIDE - 1)), _read(weights, when), trust


def _read(rows: Tensor, when: Tensor) -> Tensor:
    """Rows (B, R, M) at the times when (B, N), counted in rows; linear, the ends held."""
    last = rows.shape[1] - 1
    when = when.clamp(0, last)
    low = when.long().clamp(max=last - 1)
    share = (when - low)[..., None]
    first, second = (rows.gather(1, (low + i)[..., None].expand(-1, -1, rows.shape[2])) for i in (0, 1))
    return first * (1 - share) + second * share


def phoneme_loss(model: PhonemeClassifier, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Training loss, and the share of trusted frames whose phone is right."""
    rows, labels, weights, trust = batch
    logits, mouth = model(rows)
    logits, mouth = logits.float(), mouth.float()
    named = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    weight = trust[:, None] + 0.2
    loss = (named * weight).sum() / weight.expand_as(named).sum() + 4 * ((mouth - weights) ** 2 * weight[..., None]).mean()
    right = ((logits.argmax(-1) == labels).float().mean(1) * trust).sum() / trust.sum().clamp(min=1)
    return loss, right


def train_phoneme_classifier(
    cfg: ModelConfig, speech: SpeechDataset, held: SpeechDataset, out: Path, *, minutes: float, device: str, batch: int = 48,
    resume: bool = True, report: Callable[[dict[str, Any]], None] = lambda _: None, seed: int = 0,
    start: AudioProjector | None = None, most_steps: int | None = None, report_every: int = 100,
) -> AudioProjector:
    """Train for `minutes` of wall time or `most_steps`, going on from `out` when it is there, else from the weights of `start`, if any."""
    torch.manual_seed(seed)
    model = PhonemeClassifier(cfg).to(device)
    if start is not None:
        model.projector.load_state_dict(start.state_dict())
        if minutes <= 0 and not out.is_file():
            return model.projector.eval()
    average = Average(model, 0.995)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    info: dict[str, Any] = {"step": 0, "curve": []}
    if minutes <= 0 or (resume and out.is_file()):
        info = load_checkpoint(out, model, average, optimiser)
    rng = torch.Generator().manual_seed(seed + info["step"])
    exam = label_batch(held, 256, torch.Generator().manual_seed(1))
    began = time.monotonic()
    last = math.inf if most_steps is None else info["step"] + most_steps
    while (spent := (time.monotonic() - began) / 60) < minutes and info["step"] < last:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (info["step"] + 1) / 50) * min(1.0, 0.05 + 1.5 * (1 - spent / minutes))
        rows, *rest = label_batch(speech, batch, rng, paces=True)
        with mixed_precision(device):
            loss, _ = phoneme_loss(model, (augment(rows, rng), rest[0], rest[1], rest[2]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        info["step"] += 1
        if info["step"] % report_every == 0:
            with torch.no_grad():
                held_loss, right = phoneme_loss(model, exam)
            point = {"step": info["step"], "minutes": round(spent, 2), "loss": round(loss.item(), 4),
                     "held_loss": round(held_loss.item(), 4), "held_phones_right": round(right.item(), 4)}
            info["curve"].append(point)
            report(point)
    if minutes > 0:
        save_checkpoint(out, model, average, optimiser, info)
    model.load_state_dict({k: v.to(device) for k, v in average.weights.items()})
    return model.projector.eval()
