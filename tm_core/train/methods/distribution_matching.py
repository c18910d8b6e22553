"""Distribution matching distillation (DMD) plus regression, no GAN (paper section 4.2).

The student answers at one of its few noise levels under the sparse causal mask. Its answer is noised to a random
level; what the frozen bidirectional teacher and the critic (a denoiser that follows the student's own
distribution) see in it differs, and that difference is the student's gradient. On real sequences its answer
is also drawn to the real latents. The critic learns by flow matching on the student's samples.

First real sequences only, then a mix with the student's own (`own_share` from step `own_from` on).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..denoiser import Denoiser, guided, noised, sample, weighted_error
from ..sequences import Batch
from .method import Draw, Method, Metrics


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Weights and schedule of the distillation; the paper gives none of them (issue: state and measure)."""

    guidance: float = 1.3
    matching: float = 1.0  # weight of the DMD gradient
    regression: float = 0.5  # weight of the squared error to real latents
    own_from: int = 100  # step from which the student's own samples are mixed in
    own_share: float = 0.5
    critic_updates: int = 2  # for each of the student's
    levels: tuple[float, float] = (0.02, 0.98)  # of the noise at which teacher and critic are compared
    anchor: bool = True  # False: sequences without c0, an ablation
    other_chunk: int = 7  # latents of a chunk in a share of the updates, so that one student serves both (table 1)
    other_share: float = 0.0


class DistributionMatching(Method):
    """Roles `student`, `critic` (both trained) and `teacher` (frozen)."""

    def __init__(
        self, student: Denoiser, teacher: Denoiser, critic: Denoiser, *, chunk: int, sigmas: tuple[float, ...], cfg: DistillationConfig,
    ) -> None:
        super().__init__({"student": student, "teacher": teacher, "critic": critic})
        self.student, self.teacher, self.critic, self.chunk, self.sigmas, self.cfg = student, teacher, critic, chunk, sigmas, cfg

    @property
    def trained(self) -> tuple[str, ...]:
        """See Method."""
        return ("student", "critic")

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method."""
        return (*["critic"] * self.cfg.critic_updates, "student")

    def loss(self, role: str, batch: Batch, draw: Draw, step: int) -> tuple[Tensor, Metrics]:
        """See Method."""
        chunk = self.cfg.other_chunk if draw.shared() < self.cfg.other_share else self.chunk
        batch, own = self._sequences(batch, draw, step, chunk)
        level = self.sigmas[int(draw.shared() * len(self.sigmas))]
        sigma = torch.full((len(batch.x0),), level, device=batch.x0.device)
        x = noised(batch.x0, sigma, draw.normal(batch.x0))
        if role == "critic":
            return self._critic_loss(batch, x, sigma, draw, chunk)
        made = self.student(batch, x, sigma, chunk=chunk)
        matching = self._matching_loss(batch, made, draw)
        loss, metrics = self.cfg.matching * matching, {"matching": matching.detach()}
        if not own:
            regression = weighted_error(made, batch.x0, batch.weight)
            loss, metrics = loss + self.cfg.regression * regression, metrics | {"regression": regression.detach()}
        return loss, metrics

    def _sequences(self, batch: Batch, draw: Draw, step: int, chunk: int) -> tuple[Batch, bool]:
        """The batch, or the same with latents the student makes of it; the second says which."""
        if not self.cfg.anchor:
            batch = without_anchor(batch, chunk)
        if step < self.cfg.own_from or draw.shared() >= self.cfg.own_share:
            return batch, False
        noises = [draw.normal(batch.x0) for _ in self.sigmas]
        return replace(batch, x0=sample(self.student, batch, noises, self.sigmas, chunk=chunk)), True

    def _critic_loss(self, batch: Batch, x: Tensor, sigma: Tensor, draw: Draw, chunk: int) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            made = self.student(batch, x, sigma, chunk=chunk)
        level = self._level(draw)
        seen = self.critic(batch, noised(made, level, draw.normal(made)), level, chunk=None)
        loss = weighted_error(seen, made, batch.weight)
        return loss, {"critic": loss.detach()}

    @torch.no_grad()
    def _gradient(self, batch: Batch, made: Tensor, draw: Draw) -> Tensor:
        level = self._level(draw)
        x = noised(made, level, draw.normal(made))
        real = guided(self.teacher, batch, x, level, self.cfg.guidance)
        fake: Tensor = self.critic(batch, x, level, chunk=None)
        size = ((made - real).abs() * batch.weight).mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-4)
        return (fake - real) / size

    def _matching_loss(self, batch: Batch, made: Tensor, draw: Draw) -> Tensor:
        """Half the squared distance to the answer moved against the gradient: its derivative is the gradient."""
        target = (made - self._gradient(batch, made.detach(), draw)).detach()
        return 0.5 * weighted_error(made, target, batch.weight)

    def _level(self, draw: Draw) -> Tensor:
        low, high = self.cfg.levels
        u = draw.uniform()
        return low + (high - low) * (3 * u / (1 + 2 * u))


def without_anchor(batch: Batch, chunk: int) -> Batch:
    """The sequences with their first chunk's past gone: c1 stands where c0 stood (an ablation)."""
    rest = slice(chunk, None)
    return replace(batch, x0=batch.x0[:, :, rest], reference=batch.reference[:, :, rest], windows=batch.windows[:, rest],
                   heard=batch.heard[:, rest])
