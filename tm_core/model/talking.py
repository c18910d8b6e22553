"""One checkpoint's modules together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..config import ModelConfig
from ..vae.base import StreamingVAE
from .dit import TalkingDiT


class Heard(NamedTuple):
    """What latents hear: tokens (F, N, D) and which of them are no padding (F, N) bool, None: all."""

    tokens: Tensor
    valid: Tensor | None = None


class Listener(Protocol):
    """An audio projector: it knows its family's windows and what silence was in its training."""

    def listen(self, windows: Any, speaking: Tensor, like: Tensor) -> Heard:
        """What these latents hear, silence where speaking (F,) is False; computed in the type and place of `like`."""
        ...


def always_ready(autoencoder: StreamingVAE, reserve: int) -> None:
    """Weights that stay where they are."""


@dataclass(frozen=True, kw_only=True)
class TalkingModel:
    """Transformer, audio projector and autoencoder, and the configuration they were trained with.

    `ready(autoencoder, reserve)` is called on the caller's thread before a stream runs, and before a picture is encoded: a
    host that moves weights in and out of a device brings these and the autoencoder that will be used there, and leaves
    `reserve` bytes for the stream.
    """

    config: ModelConfig
    dit: TalkingDiT
    projector: Listener | None
    vae: StreamingVAE
    ready: Callable[[StreamingVAE, int], None] = always_ready
