"""Audio projections of the open 14B checkpoints, under their published names.

`FantasyProjector`: one linear layer and a norm over every token. `GroupedProjector` (MultiTalk, InfiniteTalk,
SoulX-FlashTalk, SoulX-LiveAct): a latent's window of all layers at once to 32 tokens, with one entrance for a clip's
first latent and one for the others. Every layer comes from injected `operations`. Non-goal: windows
(audio/speech_windows.py).

Shapes: B batch, F latents, N tokens, W window entries, L encoder layers, C encoder width, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..audio.speech_windows import GroupedWindows, PaddedWindows
from .talking import AudioTokens

EPS = 1e-5
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class FantasyProjectorConfig:
    """Sizes; the defaults are the published ones."""

    audio_dim: int = 768
    dim: int = 2048

    @classmethod
    def of(cls, shapes: Shapes) -> FantasyProjectorConfig:
        """The sizes of a checkpoint's projection."""
        dim, audio_dim = shapes["proj.weight"]
        return cls(audio_dim=audio_dim, dim=dim)


@dataclass(frozen=True, kw_only=True)
class GroupedProjectorConfig:
    """Sizes; the defaults are the published ones."""

    first_window: int = 5
    later_window: int = 8
    layers: int = 12
    audio_dim: int = 768
    hidden: int = 512
    dim: int = 768
    tokens: int = 32

    @classmethod
    def of(cls, shapes: Shapes, *, layers: int = 12) -> GroupedProjectorConfig:
        """The sizes of a checkpoint's projection; `layers` of the encoder cannot be told from them."""
        hidden, first = shapes["proj1.weight"]
        dim, later = shapes["norm.weight"][0], shapes["proj1_vf.weight"][1]
        of_frame = (later - first) // 3  # windows of 5 and of 8 frames
        return cls(
            first_window=first // of_frame, later_window=later // of_frame, layers=layers, audio_dim=of_frame // layers, hidden=hidden,
            dim=dim, tokens=shapes["proj3.weight"][0] // dim)


class FantasyProjector(nn.Module):
    """Features (..., C) to tokens (..., D); before windows are cut, so that what lies outside the sound is zero."""

    def __init__(
        self, cfg: FantasyProjectorConfig | None = None, *, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg = cfg or FantasyProjectorConfig()
        self.proj = operations.Linear(cfg.audio_dim, cfg.dim, bias=False, device=device, dtype=dtype)
        self.norm = operations.LayerNorm(cfg.dim, eps=EPS, device=device, dtype=dtype)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        tokens: Tensor = self.norm(self.proj(features))
        return tokens

    def project(self, windows: PaddedWindows, speaking: Tensor, like: Tensor) -> AudioTokens:
        """Windows (F, W, C) of features, padding after the real ones; silence is no sound at all (its audio scale 0)."""
        valid = torch.arange(windows.tokens.shape[1]) < windows.lengths.cpu()[:, None]
        tokens = self(windows.tokens.to(like)) * speaking.to(like)[:, None, None]
        return AudioTokens(tokens, valid.to(like.device))


class GroupedProjector(nn.Module):
    """Windows first (B, 0 or 1, 5, L, C) and later (B, F', 8, L, C) to tokens (B, F, N, D), the first latent's in front."""

    def __init__(
        self, cfg: GroupedProjectorConfig | None = None, *, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg = cfg or GroupedProjectorConfig()
        kw, of_frame = {"device": device, "dtype": dtype}, cfg.layers * cfg.audio_dim
        self.proj1 = operations.Linear(cfg.first_window * of_frame, cfg.hidden, **kw)
        self.proj1_vf = operations.Linear(cfg.later_window * of_frame, cfg.hidden, **kw)
        self.proj2 = operations.Linear(cfg.hidden, cfg.hidden, **kw)
        self.proj3 = operations.Linear(cfg.hidden, cfg.tokens * cfg.dim, **kw)
        self.norm = operations.LayerNorm(cfg.dim, eps=EPS, **kw)

    def forward(self, first: Tensor, later: Tensor) -> Tensor:
        """See the class; either may hold no latent."""
        x = torch.cat([F.relu(self.proj1(first.flatten(2))), F.relu(self.proj1_vf(later.flatten(2)))], 1)
        tokens: Tensor = self.norm(self.proj3(F.relu(self.proj2(x))).unflatten(-1, (self.cfg.tokens, self.cfg.dim)))
        return tokens

    def project(self, windows: GroupedWindows, speaking: Tensor, like: Tensor) -> AudioTokens:
        """Windows of features, `first` (0 or 1, 5, L, C) and `later` (F', 8, L, C); silence is that of zero features, as in training."""
        loud = speaking.to(like)[:, None, None, None].split([len(windows.first), len(windows.later)])
        return AudioTokens(self(*((part.to(like) * on)[None] for part, on in zip(windows, loud, strict=True)))[0])
