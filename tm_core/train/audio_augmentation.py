"""Log-mel rows of one voice as another voice, another microphone and another room would have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dataset import FLOOR

FORMANTS, SHIFT, SAME = 0.16, 2.0, 0.3  # log range; mel bands; share of windows left as they are
BAND = 8  # mel bands hidden at most


def augment(rows: Tensor, rng: torch.Generator) -> Tensor:
    """Another vocal tract, loudness, microphone and noise floor; rows (B, R, M) of natural-log powers."""
    batch, _, mels = rows.shape

    def r(*size: int) -> Tensor:
        return torch.rand(*size, generator=rng).to(rows.device)

    other = r(batch, 1) > SAME
    rows = _formants(rows, torch.exp((2 * r(batch, 1) - 1) * FORMANTS * other), (2 * r(batch, 1) - 1) * SHIFT * other)
    gain = r(batch, 1, 1) * 4 - 3
    knots = torch.randn(batch, 1, 5, generator=rng).to(rows.device) * 0.5
    colour = F.interpolate(knots, mels, mode="linear", align_corners=True)
    noise = FLOOR + r(batch, 1, 1) * 5 * (r(batch, 1, 1) < 0.5)
    heard = torch.logaddexp(rows + gain + colour, noise.expand_as(rows)).clamp(min=FLOOR)
    low, high = r(batch, 1) * mels, r(batch, 1) * (BAND + 1)
    band = torch.arange(mels, device=rows.device)
    return torch.where(((band >= low) & (band < low + high))[:, None], heard.mean((1, 2), keepdim=True), heard)


def _formants(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rows (B, R, M) with the mel axis stretched by scale (B, 1) and shifted by bands (B, 1).

    So a few voices stand for many (vocal tract length perturbation).
    """
    mels = rows.shape[2]
    at = (torch.arange(mels, device=rows.device) * scale + shift).clamp(0, mels - 1)
    low = at.long().clamp(max=mels - 2)
    share = (at - low)[:, None]
    first, second = (rows.gather(2, (low + i)[:, None].expand_as(rows)) for i in (0, 1))
    return first * (1 - share) + second * share
