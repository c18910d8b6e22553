"""Silence as a model is given it: windows of digital silence where a speaker does not speak.

The other kind of silence, the zero embedding, is the projector's (model.talking: AudioProjection). Our own models are given
the log-mel of digital silence; for the open families silence is features of zeros, which they met in training (for those
encoded in groups of frames that is what their zero embedding does as well). The features of digital silence by their own
encoder come with the sound instead: split it (conversation.py) and let it speak always. Non-goals: when (silence.py,
turns.py).

Shapes: F latents, W x M one window, "..." kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .features import SILENCE_LEVEL
from .speech_windows import GroupedWindows, PaddedWindows

Silence = Literal["zero", "real"]


class WindowSource(Protocol):
    """A sound as a model hears it."""

    def windows(self, latents: range, *, each_clip: bool = False) -> Any:
        """Windows of consecutive latents."""


class Flags(Protocol):
    """One flag a latent (F,): an array, or what finds them as they are asked for (long_sound.LongFlags)."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def flags_at(flags: Flags, latents: range) -> Tensor:
    """Flags (F,) of these latents; silent outside the sound."""
    return torch.tensor([bool(flags[i]) if 0 <= i < len(flags) else False for i in latents])


def silence_windows(windows: Any, speaking: Tensor) -> Any:
    """Windows of latents, silence where speaking (F,) is False."""
    if isinstance(windows, PaddedWindows):
        return windows._replace(tokens=_silenced(windows.tokens, speaking, 0.0))
    if isinstance(windows, GroupedWindows):
        parts = speaking.split([len(windows.first), len(windows.later)])
        return GroupedWindows(*(_silenced(part, on, 0.0) for part, on in zip(windows, parts, strict=True)))
    return _silenced(windows, speaking, SILENCE_LEVEL)


def _silenced(windows: Tensor, speaking: Tensor, level: float) -> Tensor:
    silent = ~speaking.to(windows.device).reshape(-1, *[1] * (windows.ndim - 1))
    return windows.masked_fill(silent, level)


@dataclass(frozen=True, kw_only=True)
class SilencedWindows:
    """A sound with windows of silence where its flags (F,) are False."""

    sound: WindowSource
    flags: Flags

    def windows(self, latents: range, *, each_clip: bool = False) -> Any:
        """Windows of consecutive latents."""
        return silence_windows(self.sound.windows(latents, each_clip=each_clip), flags_at(self.flags, latents))
