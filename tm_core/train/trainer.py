"""The training loop: recipe x method x callbacks, on one process or many.

Every update's randomness comes from (seed, step, update), so a resumed run is the run it continues, bit for bit
on one machine. Wall time ends a run, never shapes it. Non-goals: what is learnt (methods/), from what (clips).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from .checkpoint import Average
from .methods.method import Draw, Method
from .mixed_precision import mixed_precision
from .parallel import ParallelConfig, World
from .sequences import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW of one role; the rate rises over `warmup` steps, then stays (the average is what is kept)."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup: int = 100
    clip: float = 1.0
    decay_from: int | None = None  # step from which the rate falls as 1 / sqrt(step / decay_from)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        falling = 1.0 if self.decay_from is None or step < self.decay_from else math.sqrt(self.decay_from / step)
        return self.rate * min(1.0, (step + 1) / max(1, self.warmup)) * falling


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how large; `minutes` of wall time may end a run before its steps do."""

    steps: int
    batch: int  # sequences of all processes together
    optim: OptimConfig = OptimConfig()
    critic: OptimConfig | None = None  # other roles than the first; None: the same
    average: float = 0.997  # decay of the moving average of the first role's weights
    seed: int = 0
    autocast: bool = True  # bfloat16 where the hardware multiplies it
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


class Data(Protocol):
    """Batches by step."""

    def batch(self, step: int, size: int, rng: torch.Generator) -> Batch:
        """`size` sequences, the same for the same step and generator."""


class Callback(Protocol):
    """Told after every step; `end` comes once, also after an interrupt."""

    def after_step(self, trainer: Trainer, metrics: dict[str, Tensor]) -> None:
        """Metrics of the step are scalars on the device: read them rarely."""

    def end(self, trainer: Trainer) -> None:
        """The run is over."""


class Trainer:
    """Runs a method on data; `state` is all that a checkpoint needs besides the roles."""

    def __init__(
        self, method: Method, data: Data, cfg: TrainConfig, *, world: World, callbacks: Sequence[Callback] = (), name: str = "",
    ) -> None:
        self.method, self.data, self.cfg, self.world, self.callbacks, self.name = method, data, cfg, world, callbacks, name
        self.step, self.minutes = 0, 0.0
        self.optimisers = {r: self._optimiser(r) for r in method.trained}
        self.average = Average(method.roles[method.trained[0]], cfg.average)

    @property
    def product(self) -> nn.Module:
        """The role that the run produces."""
        return self.method.roles[self.method.trained[0]]

    def run(self, *, minutes: float | None = None, most_steps: int | None = None) -> None:
        """Until the recipe's steps, the wall time or `most_steps` more are over."""
        began, before = time.monotonic(), self.minutes
        last = min(self.cfg.steps, math.inf if most_steps is None else self.step + most_steps)
        try:
            while self.step < last and (minutes is None or self._minutes_since(began) < minutes):
                metrics = self.one_step()
                self.minutes = before + (time.monotonic() - began) / 60
                for callback in self.callbacks:
                    callback.after_step(self, metrics)
        finally:
            for callback in self.callbacks:
                callback.end(self)

    def _minutes_since(self, began: float) -> float:
        """The same number in all processes, so that all end at the same step."""
        return float(self.world.mean(torch.tensor((time.monotonic() - began) / 60, device=self.world.device)))

    def one_step(self) -> dict[str, Tensor]:
        """All updates of one step; their metrics."""
        metrics: dict[str, Tensor] = {}
        for turn, role in enumerate(self.method.updates(self.step)):
            metrics |= self._update(role, turn)
        self.average.update(self.product)
        self.step += 1
        return metrics

    def _update(self, role: str, turn: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed((self.cfg.seed * 1_000_003 + self.step) * 16 + turn)
        batch, mine = self.data.batch(self.step, self.cfg.batch, rng), self.world.mine(self.cfg.batch)
        device = torch.device(self.world.device)
        draw = Draw(rng=rng, total=self.cfg.batch, mine=mine, device=device)
        part = batch.part(mine).map(lambda t: t.to(device))
        module, optim = self.method.roles[role], self._config(role)
        with mixed_precision(device, self.cfg.autocast):
            loss, metrics = self.method.loss(role, part, draw, self.step)
        self.optimisers[role].zero_grad(set_to_none=True)
        loss.backward()
        self.world.reduce_gradients(module)
        self.world.clip(module, optim.clip)
        for group in self.optimisers[role].param_groups:
            group["lr"] = optim.rate_at(self.step)
        self.optimisers[role].step()
        return metrics

    def _config(self, role: str) -> OptimConfig:
        first = role == self.method.trained[0]
        return self.cfg.optim if first or self.cfg.critic is None else self.cfg.critic

    def _optimiser(self, role: str) -> torch.optim.AdamW:
        optim = self._config(role)
        learning = [p for p in self.method.roles[role].parameters() if p.requires_grad]
        return torch.optim.AdamW(learning, lr=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)
