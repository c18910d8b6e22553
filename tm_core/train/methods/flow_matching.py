"""Flow matching: the teacher's own training (paper sections 4.1 and 5.2, stages 1 and 2).

One timestep for all latents of a sequence. The loss is on clean latents, weighted to the mouth; a third of the
levels are pure noise, where few-step sampling begins, the rest lean high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser, noised, weighted_error
from ..sequences import Batch
from .method import Draw, Method, Metrics


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What learns for a number of steps; `sound` False gives every sequence the zero embedding."""

    steps: int
    trainable: Literal["all", "audio"] = "all"
    sound: bool = True


def noise_levels(draw: Draw) -> Tensor:
    """(B,) sigmas: a third at 1, the rest leaning high."""
    u, first = draw.uniform(), draw.uniform()
    return torch.where(first < 0.35, torch.ones_like(u), 3 * u / (1 + 2 * u)).clamp(min=0.02)


class FlowMatching(Method):
    """Role `student`; a share of the batches run under the sparse causal mask, the others with full attention.

    `phases`: stretches of steps at the beginning in which only some layers learn, or nothing is heard.
    """

    def __init__(self, student: Denoiser, *, chunk: int, causal_share: float = 0.0, phases: Sequence[Phase] = ()) -> None:
        super().__init__({"student": student})
        self.student, self.chunk, self.causal_share, self.phases = student, chunk, causal_share, tuple(phases)

    def phase(self, step: int) -> Phase | None:
        """The phase of a step; None after the last."""
        for phase in self.phases:
            step -= phase.steps
            if step < 0:
                return phase
        return None

    @property
    def trained(self) -> tuple[str, ...]:
        """See Method."""
        return ("student",)

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method."""
        return ("student",)

    def loss(self, role: str, batch: Batch, draw: Draw, step: int) -> tuple[Tensor, Metrics]:
        """See Method."""
        phase = self.phase(step)
        self.student.train_only(phase.trainable if phase else "all")
        if phase and not phase.sound:
            batch = replace(batch, heard=torch.zeros_like(batch.heard))
        sigma = noise_levels(draw)
        chunk = self.chunk if draw.shared() < self.causal_share else None
        made = self.student(batch, noised(batch.x0, sigma, draw.normal(batch.x0)), sigma, chunk=chunk)
        loss = weighted_error(made, batch.x0, batch.weight)
        return loss, {"loss": loss.detach()}
