"""What happens beside the steps: checkpoints, figures on held-out clips, a validation video."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..vae.tiny import TinyVAE
from .denoiser import Denoiser, noised, sample, weighted_error
from .run_checkpoint import save_run
from .sequences import Batch
from .trainer import Trainer

log = logging.getLogger(__name__)
Measure = Callable[[nn.Module], dict[str, float]]


class Curve:
    """Means of the metrics every `every` steps, held-out figures every other time; `points` go into the checkpoint."""

    def __init__(self, *, every: int = 50, exam: Measure | None = None, report: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self.every, self.exam, self.report = every, exam, report
        self.points: list[dict[str, Any]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def after_step(self, trainer: Trainer, metrics: dict[str, Tensor]) -> None:
        """See Callback."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if trainer.step % self.every == 0:
            self._point(trainer)

    def _point(self, trainer: Trainer) -> None:
        point: dict[str, Any] = {"step": trainer.step, "minutes": round(trainer.minutes, 2)}
        for name, total in self._sums.items():
            point[name] = round(float(trainer.world.mean(total / self._counts[name])), 5)
        self._sums, self._counts = {}, {}
        if self.exam is not None and trainer.step % (2 * self.every) == 0:
            point |= self.exam(trainer.product)
        self.points.append(point)
        if trainer.world.is_main:
            self.report(point)

    def end(self, trainer: Trainer) -> None:
        """See Callback."""


class Checkpoints:
    """A checkpoint every few minutes and at the end."""

    def __init__(self, path: Path, curve: Curve, *, every_minutes: float = 4.0) -> None:
        self.path, self.curve, self.every_s = path, curve, 60 * every_minutes
        self._saved = time.monotonic()

    def after_step(self, trainer: Trainer, metrics: dict[str, Tensor]) -> None:
        """See Callback."""
        spent = torch.tensor(time.monotonic() - self._saved, device=trainer.world.device)
        if trainer.world.mean(spent) > self.every_s:  # all processes or none
            self._save(trainer)

    def end(self, trainer: Trainer) -> None:
        """See Callback."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        save_run(self.path, trainer, {"curve": self.curve.points})
        self._saved = time.monotonic()


class ValidationVideo:
    """Every `every` steps, one held-out sequence sampled with the student's own steps, as an mp4 without sound."""

    def __init__(self, folder: Path, vae: TinyVAE, batch: Batch, portrait: Tensor, *, sigmas: tuple[float, ...], chunk: int | None,
                 fps: int, every: int = 500) -> None:
        self.folder, self.vae, self.batch, self.portrait = folder, vae, batch.part(slice(0, 1)), portrait
        self.sigmas, self.chunk, self.fps, self.every = sigmas, chunk, fps, every

    def after_step(self, trainer: Trainer, metrics: dict[str, Tensor]) -> None:
        """See Callback."""
        if trainer.step % self.every == 0 and isinstance(trainer.product, Denoiser):
            latents = self._sample(trainer.product)  # all processes: a sharded model runs on all of them
            if trainer.world.is_main:
                self._write(latents, trainer.step)

    def end(self, trainer: Trainer) -> None:
        """See Callback."""

    def _sample(self, model: Denoiser) -> Tensor:
        rng = torch.Generator().manual_seed(1)
        noises = [torch.randn(self.batch.x0.shape, generator=rng).to(self.batch.x0.device) for _ in self.sigmas]
        return sample(model, self.batch, noises, self.sigmas, chunk=self.chunk)

    @torch.no_grad()
    def _write(self, latents: Tensor, step: int) -> None:
        try:
            from ..media.video_io import VideoWriter
        except ModuleNotFoundError:  # a lent machine may have torch and little else
            log.info("no validation video: PyAV is not installed")
            return
        frames = self.vae.decode(latents.to(self.portrait.device), self.vae.open_decoder(self.portrait))[0]
        pictures = frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        with VideoWriter(self.folder / f"step{step:06d}.mp4", pictures.shape[2], pictures.shape[1], self.fps) as writer:
            writer.write(np.ascontiguousarray(pictures))


@torch.no_grad()
def examine(model: nn.Module, batch: Batch, *, chunk: int | None) -> dict[str, float]:
    """From pure noise on held-out clips: error as a share of a still portrait's, right and wrong sound."""
    assert isinstance(model, Denoiser)
    noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(5)).to(batch.x0.device)
    sigma = torch.ones(len(noise), device=noise.device)
    still = weighted_error(batch.reference[:, 4:], batch.x0, batch.weight)
    other = Batch(**{**batch.__dict__, "windows": batch.windows.roll(1, 0), "heard": batch.heard.roll(1, 0)})
    right, wrong = (weighted_error(model(b, noise, sigma, chunk=chunk), batch.x0, batch.weight) / still for b in (batch, other))
    half = torch.full_like(sigma, 0.5)
    near = weighted_error(model(batch, noised(batch.x0, half, noise), half, chunk=chunk), batch.x0, batch.weight) / still
    return {"held_right": round(right.item(), 4), "held_wrong": round(wrong.item(), 4), "held_half_noise": round(near.item(), 4)}


def log_points(name: str) -> Callable[[dict[str, Any]], None]:
    """Reports points of a curve to the log."""
    return lambda point: log.info("%s %s", name, json.dumps(point))


