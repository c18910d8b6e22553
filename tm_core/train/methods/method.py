"""The contract between the trainer and a method.

A method owns its roles (student, teacher, critic), says which of them a step updates and gives each one's
loss. It draws every random number from the `Draw` it is handed, for the whole batch of all processes, so a
run on many processes computes what one process would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..sequences import Batch

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Randomness of one update: `total` sequences in all processes, of which this one takes `mine`."""

    rng: torch.Generator
    total: int
    mine: slice
    device: torch.device | str

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like`, whose first axis is this process's share."""
        return torch.randn(self.total, *like.shape[1:], generator=self.rng)[self.mine].to(self.device)

    def uniform(self) -> Tensor:
        """(B,) in 0..1 for this process's sequences."""
        return torch.rand(self.total, generator=self.rng)[self.mine].to(self.device)

    def shared(self) -> float:
        """One number in 0..1, the same in all processes."""
        return float(torch.rand(1, generator=self.rng))


class Method(ABC):
    """See the module's docstring."""

    def __init__(self, roles: Mapping[str, nn.Module]) -> None:
        self.roles = dict(roles)

    @property
    @abstractmethod
    def trained(self) -> tuple[str, ...]:
        """Roles that have an optimiser; the first is what the run produces."""

    @abstractmethod
    def updates(self, step: int) -> tuple[str, ...]:
        """Roles that step `step` updates, in order."""

    @abstractmethod
    def loss(self, role: str, batch: Batch, draw: Draw, step: int) -> tuple[Tensor, Metrics]:
        """Loss of one role (a scalar with gradient) and what is worth logging (scalars without)."""
