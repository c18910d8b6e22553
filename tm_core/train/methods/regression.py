"""ODE regression: the few-step student learns where the teacher's probability flow ends.

The teacher runs all of its steps from a noise; the student must reach the same clean latents from any of
its own noise levels on that path. CausVid begins so; the paper does not say. A path costs 24 evaluations, so
paths are kept and seen several times.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...weights.files import save_tensors
from ..denoiser import Denoiser, noised, sample, weighted_error
from ..sequences import Batch
from .method import Draw, Method, Metrics


@dataclass(frozen=True, kw_only=True)
class TeacherSampling:
    """The teacher's own sampler: 12 Euler steps of two evaluations (paper section 4.2)."""

    steps: int = 12
    shift: float = 3.0
    guidance: float = 1.3

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, first 1, spent mostly high (Wan's shift)."""
        even = (1 - i / self.steps for i in range(self.steps))
        return tuple(self.shift * s / (1 + (self.shift - 1) * s) for s in even)


def teacher_sample(teacher: Denoiser, batch: Batch, noise: Tensor, how: TeacherSampling) -> Tensor:
    """Clean latents (B, C, F, h, w) the bidirectional teacher ends at from this noise."""
    return sample(teacher, batch, [noise], how.sigmas, chunk=None, scale=how.guidance, again=False)


@dataclass(frozen=True, kw_only=True)
class TeacherPath:
    """Where the teacher ends from a noise; x0 of the batch is not needed any more."""

    batch: Batch
    noise: Tensor  # (B, C, F, h, w)
    end: Tensor  # (B, C, F, h, w)


class Regression(Method):
    """Roles `student` (causal, few steps) and `teacher` (bidirectional, frozen).

    A path is made every `uses` steps, the newest `kept` are in use. With a `folder` they are kept there, so that
    a resumed run has them too.
    """

    def __init__(
        self, student: Denoiser, teacher: Denoiser, *, chunk: int, sigmas: tuple[float, ...], sampling: TeacherSampling,
        uses: int = 8, kept: int = 48, folder: Path | None = None,
    ) -> None:
        super().__init__({"student": student, "teacher": teacher})
        self.student, self.teacher, self.chunk, self.sigmas, self.sampling = student, teacher, chunk, sigmas, sampling
        self.uses, self.kept, self.folder = uses, kept, folder
        self._paths: dict[int, TeacherPath] = {}

    @property
    def trained(self) -> tuple[str, ...]:
        """See Method."""
        return ("student",)

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method."""
        return ("student",)

    def loss(self, role: str, batch: Batch, draw: Draw, step: int) -> tuple[Tensor, Metrics]:
        """See Method."""
        newest = step // self.uses
        if step % self.uses == 0:
            self._make(newest, batch, draw)
        oldest = max(0, newest - self.kept + 1)
        path = self._path(oldest + int(draw.shared() * (newest + 1 - oldest)), draw)
        level = self.sigmas[int(draw.shared() * len(self.sigmas))]
        sigma = torch.full((len(path.noise),), level, device=path.noise.device)
        x = noised(path.end, sigma, path.noise if level == 1.0 else draw.normal(path.end))
        made = self.student(path.batch, x, sigma, chunk=self.chunk)
        loss = weighted_error(made, path.end, path.batch.weight)
        return loss, {"loss": loss.detach()}

    def _make(self, index: int, batch: Batch, draw: Draw) -> None:
        noise, file = draw.normal(batch.x0), self._file(index, draw)
        end = teacher_sample(self.teacher, batch, noise, self.sampling).float()
        self._paths[index] = TeacherPath(batch=batch, noise=noise, end=end)
        if file is not None:
            _save(self._paths[index], file)
        self._paths.pop(index - self.kept, None)

    def _path(self, index: int, draw: Draw) -> TeacherPath:
        if index not in self._paths:
            file = self._file(index, draw)
            if file is None or not file.is_file():
                raise RuntimeError(f"path {index} of the teacher is gone: regression resumes only where its paths are kept in a folder")
            self._paths[index] = _load(file, draw.device)
        return self._paths[index]

    def _file(self, index: int, draw: Draw) -> Path | None:
        """A process keeps its own share of the batch."""
        return None if self.folder is None else self.folder / f"{index:05d}-{draw.mine.start}-{draw.mine.stop}.safetensors"


def _save(path: TeacherPath, file: Path) -> None:
    tensors = {f.name: t for f in fields(path.batch) if (t := getattr(path.batch, f.name)) is not None}
    tensors |= {"path.noise": path.noise, "path.end": path.end}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({file: {k: v.cpu() for k, v in tensors.items()}}, field="path")


def _load(file: Path, device: torch.device | str) -> TeacherPath:
    tensors = {k: v.to(device) for k, v in load_file(str(file)).items()}
    noise, end = tensors.pop("path.noise"), tensors.pop("path.end")
    return TeacherPath(batch=Batch(**tensors), noise=noise, end=end)
