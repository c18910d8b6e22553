"""Which second noise level serves a two-step student: held-out sequences sampled with each, under the sparse causal mask.

Told for each: error to the real latents as a share of a still portrait's (right and wrong sound), and how much of
the real motion's spread there is, at the mouth and elsewhere. Reads the checkpoints in build/train (TM_BUILD).
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks._common import Result, result, say
from tm_core.errors import InputError
from tm_core.train.denoiser import Denoiser, sample, weighted_error
from tm_core.train.recipes import RECIPES
from tm_core.train.sequences import HELD_SEED, Batch, ClipCache, exam_batch
from tm_core.train.training_run import TrainingRun, work_folder

LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35)
CLIPS = 8


def run(*, weights: Path | None = None, seconds: float | None = None) -> list[Result]:
    """One row a level and measure; `weights`: a recipe's name instead of tiny_teacher (e.g. tiny_student)."""
    recipe = RECIPES["tiny_student"]()
    name, training = str(weights or "tiny_teacher"), TrainingRun(folder=work_folder(), device="cpu")
    model = training.product(name, recipe.model)
    if model is None:
        raise InputError("--weights", name, "no checkpoint of it in build/train", "train it first, or name another recipe")
    vae = training.vae(recipe.model)
    folder = training.folder / "clips" / "held"
    bank = ClipCache(vae, training.inputs("held"), recipe.model, motion=recipe.motion, seed=HELD_SEED, folder=folder)
    batch = exam_batch(bank, recipe.model, CLIPS if seconds is None else 2)
    rows: list[Result] = []
    for sigmas in ((1.0,), *((1.0, s) for s in LEVELS)):
        rows += _measured(model, batch, sigmas, recipe.model.sampler.chunk_latents)
    return rows


@torch.no_grad()
def _measured(model: Denoiser, batch: Batch, sigmas: tuple[float, ...], chunk: int) -> list[Result]:
    other = Batch(**{**batch.__dict__, "windows": batch.windows.roll(1, 0), "heard": batch.heard.roll(1, 0)})
    noises = [torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(i)) for i in range(len(sigmas))]
    still = batch.reference[:, 4:]
    base = weighted_error(still, batch.x0, batch.weight)
    made, wrong = (sample(model, b, noises, sigmas, chunk=chunk) for b in (batch, other))
    right = float(weighted_error(made, batch.x0, batch.weight) / base)
    false = float(weighted_error(wrong, batch.x0, batch.weight) / base)
    mouth = (batch.weight > 4 * batch.weight.amin((3, 4), keepdim=True)).float()
    spread = [float((((made - still) ** 2 * m).sum() / ((batch.x0 - still) ** 2 * m).sum()).sqrt()) for m in (mouth, 1 - mouth)]
    name = ", ".join(f"{s:g}" for s in sigmas)
    say(f"({name}): right {right:.3f}, wrong {false:.3f}, mouth moves {spread[0]:.2f}, rest {spread[1]:.2f} of the real")
    what = ("error, right sound", "error, wrong sound", "spread of the mouth's motion", "spread of the rest's motion")
    return [result(f"{w}, levels {name}", v, "of a still portrait's" if "error" in w else "of the real")
            for w, v in zip(what, (right, false, *spread), strict=True)]
