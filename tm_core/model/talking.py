"""One checkpoint's modules together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..config import ModelConfig
from ..vae.base import StreamingVAE
from .dit import TalkingDiT


class AudioTokens(NamedTuple):
    """What latents hear: tokens (F, N, D) and which of them are no padding (F, N) bool, None: all."""

    tokens: Tensor
    valid: Tensor | None = None


class AudioProjection(Protocol):
    """An audio projector: it knows its family's windows and what silence was in its training."""

    def project(self, windows: Any, speaking: Tensor, like: Tensor) -> AudioTokens:
        """What these latents hear, silence where speaking (F,) is False; computed in the type and place of `like`."""
        ...


class WeightLoader(Protocol):
    """Who moves the weights of models in and out of a device."""

    def load(self, needs: Sequence[WeightNeeds]) -> None:
        """Brings all of these to where they compute, at the same time; called on the caller's thread before streams run."""
        ...


class ResidentWeights:
    """Weights that stay where they are."""

    def load(self, needs: Sequence[WeightNeeds]) -> None:
        """Nothing to do."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResidentWeights)

    def __hash__(self) -> int:
        return hash(ResidentWeights)


@dataclass(frozen=True, kw_only=True)
class TalkingModel:
    """Transformer, audio projector and autoencoder, and the configuration they were trained with.

    `loader`: who brings their weights to the device before a stream runs, and before a picture is encoded; two models with equal
    loaders are loaded together.
    """

    config: ModelConfig
    dit: TalkingDiT
    projector: AudioProjection | None
    vae: StreamingVAE
    loader: WeightLoader = field(default_factory=ResidentWeights)


@dataclass(frozen=True, kw_only=True)
class WeightNeeds:
    """What one stream needs in place: the model's transformer, an autoencoder (the model's own or another), `reserve` bytes besides."""

    model: TalkingModel
    autoencoder: StreamingVAE
    transformer: bool = True
    reserve: int = 0


def load_weights(needs: Sequence[WeightNeeds]) -> None:
    """Everything that streams which run at the same time need, in one go: no one's weights are put out for another's."""
    for loader in dict.fromkeys(need.model.loader for need in needs):
        loader.load([need for need in needs if need.model.loader == loader])
