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
from ..errors import InputError
from .talking import Heard

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class FantasyProjectorConfig:
    """Sizes; the defaults are the published ones."""

    audio_dim: int = 768
    dim: int = 2048


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

    def listen(self, windows: PaddedWindows, speaking: Tensor, like: Tensor) -> Heard:
        """Windows (F, W, C) of features, padding after the real ones; silence is no sound at all (its audio scale 0)."""
        valid = torch.arange(windows.tokens.shape[1]) < windows.lengths.cpu()[:, None]
        tokens = self(windows.tokens.to(like)) * speaking.to(like)[:, None, None]
        return Heard(tokens, valid.to(like.device))


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

    def listen(self, windows: GroupedWindows, speaking: Tensor, like: Tensor) -> Heard:
        """Windows of features, `first` (0 or 1, 5, L, C) and `later` (F', 8, L, C); silence is that of zero features, as in training."""
        loud = speaking.to(like)[:, None, None, None].split([len(windows.first), len(windows.later)])
        return Heard(self(*((part.to(like) * on)[None] for part, on in zip(windows, loud, strict=True)))[0])


PREFIXES = {"fantasy": ("proj_model.", ""), "grouped": ("audio_proj.", "")}
WRAPPERS = ("model.diffusion_model.", "diffusion_model.", "")
LAYERS = {"fantasy": ("proj", "norm"), "grouped": ("proj1", "proj1_vf", "proj2", "proj3", "norm")}


def projector_weights(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The projection's tensors of a checkpoint, without their prefix; `kind` is "fantasy" or "grouped".

    Takes the official names, a wrapper's `diffusion_model.` before them, and bare ones; everything else of the file
    (blocks, `audio_processor.`) is left alone. Raises InputError naming the first tensor that is missing.
    """
    wanted = [f"{name}.{part}" for name in LAYERS[kind] for part in ("weight", "bias") if (name, part) != ("proj", "bias")]
    heads = [wrapper + prefix for wrapper in WRAPPERS for prefix in PREFIXES[kind]]
    head = max(heads, key=lambda h: sum(h + name in state for name in wanted))
    if missing := [name for name in wanted if head + name not in state]:
        raise InputError(
            "checkpoint", f"no {PREFIXES[kind][0]}{missing[0]}", f"its audio projection must have {len(wanted)} tensors",
            "choose the family's own file as .safetensors")
    return {name: state[head + name] for name in wanted}


def build_fantasy_projector(
    state: Mapping[str, Tensor], *, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None,
) -> FantasyProjector:
    """FantasyTalking's projection of a checkpoint, sizes from its tensors."""
    weights = projector_weights(state, "fantasy")
    dim, audio_dim = weights["proj.weight"].shape
    model = FantasyProjector(FantasyProjectorConfig(audio_dim=audio_dim, dim=dim), operations=operations, device=device, dtype=dtype)
    model.load_state_dict(weights)
    return model


def build_grouped_projector(
    state: Mapping[str, Tensor], *, layers: int = 12, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None,
) -> GroupedProjector:
    """MultiTalk's projection of a checkpoint, sizes from its tensors; `layers` of the encoder cannot be told from them."""
    weights = projector_weights(state, "grouped")
    hidden, first = weights["proj1.weight"].shape
    dim, later = weights["norm.weight"].shape[0], weights["proj1_vf.weight"].shape[1]
    of_frame = (later - first) // 3  # windows of 5 and of 8 frames
    cfg = GroupedProjectorConfig(
        first_window=first // of_frame, later_window=later // of_frame, layers=layers, audio_dim=of_frame // layers, hidden=hidden, dim=dim,
        tokens=weights["proj3.weight"].shape[0] // dim)
    model = GroupedProjector(cfg, operations=operations, device=device, dtype=dtype)
    model.load_state_dict(weights)
    return model
