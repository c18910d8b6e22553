"""Audio projection: a window of log-mel rows to one token per video frame (paper section 3).

Convolutions stay inside the window, so a token never hears more than its latent's window. The trunk is also
trained alone, on phone labels, before the transformer is: it plays the part a speech encoder plays at scale.

Shapes: B batch, F latents, W rows of a window, M mel bands, N = W / 4 tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AudioProjectorConfig
from .talking import AudioTokens


class _Residual(nn.Module):
    def __init__(self, width: int, operations: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(width)
        self.conv1 = operations.Conv1d(width, width, 5, padding=2)
        self.conv2 = operations.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.conv2(F.gelu(self.conv1(normed)))
        return out


class Trunk(nn.Module):
    """Rows (B, R, M) to features (B, R / 4, width), one per video frame."""

    def __init__(self, cfg: AudioProjectorConfig, operations: Any) -> None:
        super().__init__()
        half = cfg.width // 2
        self.enter = operations.Conv1d(cfg.n_mels, half, 5, padding=2)
        self.down1 = operations.Conv1d(half, cfg.width, 4, stride=2, padding=1)
        self.down2 = operations.Conv1d(cfg.width, cfg.width, 4, stride=2, padding=1)
        self.mix = nn.ModuleList([_Residual(cfg.width, operations) for _ in range(3)])

    def forward(self, rows: Tensor) -> Tensor:
        """See the class; rows are natural-log mel powers."""
        x = ((rows + 6) / 3).transpose(1, 2)
        x = self.down2(F.gelu(self.down1(F.gelu(self.enter(x)))))
        for block in self.mix:
            x = block(x)
        features: Tensor = x.transpose(1, 2)
        return features


class AudioProjector(nn.Module):
    """Windows (B, F, W, M) to tokens (B, F, N, D)."""

    def __init__(self, cfg: AudioProjectorConfig, *, operations: Any = nn) -> None:
        super().__init__()
        self.cfg = cfg
        self.trunk = Trunk(cfg, operations)
        self.out = operations.Linear(cfg.width, cfg.dim)
        self.place = nn.Parameter(torch.randn(cfg.tokens, cfg.dim) * 0.1)

    def embed(self, features: Tensor) -> Tensor:
        """Tokens (..., N, D) of the trunk's features (..., N, width): where in the window each one stands is added."""
        out: Tensor = self.out(F.gelu(features)) + self.place
        return out

    def forward(self, windows: Tensor) -> Tensor:
        """See the class."""
        return self.embed(self.trunk(windows.flatten(0, 1)).unflatten(0, windows.shape[:2]))

    def project(self, windows: Tensor, speaking: Tensor, like: Tensor) -> AudioTokens:
        """Windows (F, W, M); silence is the zero embedding (paper section 3)."""
        return AudioTokens(self(windows[None].to(like))[0] * speaking.to(like)[:, None, None])
