"""Training steps on the device, from clips made there: the teacher, then what it teaches. From the pack where there are no inputs.

Times and losses, no weights to keep: a few stills and seconds of speech are too little to train on (docs/training.md).
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks._gpu.pack import pack_path, unpack, work_folder
from benchmarks._gpu.record import Recorder
from benchmarks._gpu.timing import wait
from tm_core.train.recipes import RECIPES, Recipe
from tm_core.train.run_checkpoint import save_run
from tm_core.train.sequences import ClipCache, ClipData
from tm_core.train.training_run import TrainingRun, build_trainer

TRAINED = ("tiny_teacher", "tiny_init", "tiny_student")


def run(told: Recorder) -> None:
    """Drawing clips, then steps of each recipe, the teacher's checkpoint taken by the other two."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs = work_folder() / "inputs.safetensors"
        folder = Path(scratch)
        if inputs.is_file():
            (folder / "inputs.safetensors").symlink_to(inputs.resolve())
        else:
            unpack(folder)
        told.row("inputs", "training's own" if inputs.is_file() else f"the pack of {pack_path().stat().st_size / 2**20:.1f} MiB")
        shop = TrainingRun(folder=folder, device=told.device)
        data = _data(told, shop)
        for name in TRAINED:
            if told.enough(name, 8 if told.cuda else 4):
                _steps(told, shop, RECIPES[name](), data)


def _data(told: Recorder, shop: TrainingRun) -> ClipData:
    """Clips kept in memory, so that steps do not wait for them."""
    recipe, count = RECIPES["tiny_student"](), 8 if told.cuda else 1
    vae = shop.vae(recipe.model)
    bank = ClipCache(vae, shop.inputs("train"), recipe.model, motion=recipe.motion, seed=0, folder=None, device=told.device)
    bank[count]  # the first one loads kernels
    wait(told.device)
    began = time.perf_counter()
    for i in range(count):
        bank[i]
    wait(told.device)
    told.row("drawing and encoding a clip of 36 latents", (time.perf_counter() - began) / count * 1000, "ms")
    return ClipData(bank=bank, cfg=recipe.model, first_clips=count, renew_every=10**6)


def _steps(told: Recorder, shop: TrainingRun, recipe: Recipe, data: ClipData) -> None:
    """So many steps of a recipe; its checkpoint stays for those that begin with it. On a CPU one sequence, in float32."""
    if not told.cuda:
        recipe = replace(recipe, train=replace(recipe.train, batch=1, autocast=False))
    trainer, steps = build_trainer(recipe, shop, data, device=told.device), 20 if told.cuda else 1
    losses = [trainer.one_step()]
    wait(told.device)
    began = time.perf_counter()
    losses += [trainer.one_step() for _ in range(steps)]
    wait(told.device)
    took = (time.perf_counter() - began) / steps * 1000
    told.row(f"a step of {recipe.name}, batch {recipe.train.batch}", took, "ms")
    told.row(f"{recipe.name}: steps in an hour", round(3.6e6 / took))
    values = [float(v) for told_of in losses for v in told_of.values()]
    told.true(f"{recipe.name}: every loss is a number", bool(values) and all(math.isfinite(v) for v in values))
    save_run(shop.checkpoint(recipe.name), trainer, {"curve": []})
