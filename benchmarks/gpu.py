"""Speed on a GPU (or whatever --device says): the bundled model, training steps, and the 14B and 18B shapes.

Needs torch, numpy and safetensors only, so it runs on a lent machine; sound and portrait are noise, which costs the
same. `--part` chooses among tiny, training and large. Training steps are measured where build/train/inputs.safetensors and
the checkpoints they need are there; the large shapes (benchmarks/_large.py) where a CUDA device has the memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import _large
from tm_core.errors import InputError
from tm_core.streaming.sampler import ChunkedSampler, Scene, Speaker
from tm_core.train.recipes import RECIPES
from tm_core.train.sequences import ClipCache, ClipData
from tm_core.train.training_run import TrainingRun, build_trainer, work_folder
from tm_core.weights.loading import load_model

Result = dict[str, object]
CHUNKS, WARM, STEPS = 60, 5, 8
TRAINED = ("tiny_teacher", "tiny_init", "tiny_student")


def run(*, weights: Path | None = None, device: str = "auto", part: Sequence[str] | None = None) -> list[Result]:
    """Rows of what was measured; the first says on which device. InputError for a part that is not one."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    parts: dict[str, Callable[[], list[Result]]] = {
        "tiny": lambda: _tiny(weights, chosen), "training": lambda: _training(work_folder(), chosen), "large": lambda: _large.rows(chosen)}
    if unknown := set(part or ()) - set(parts):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench gpu has {', '.join(parts)}", "choose one of them")
    return [_row("device", chosen, ""), *(row for name in (part or parts) for row in parts[name]())]


def _tiny(weights: Path | None, device: str) -> list[Result]:
    model = load_model(weights, device=device)
    return [_row(f"denoising and decoding a chunk of {n} latents", round(_chunk_ms(model, n, device), 2), "ms") for n in (3, 7)]


def _row(what: str, value: object, unit: str) -> Result:
    return {"what": what, "value": value, "unit": unit, "bar": None, "ok": None}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@torch.inference_mode()
def _chunk_ms(model: object, chunk: int, device: str) -> float:
    config = model.config  # type: ignore[attr-defined]
    h, w = config.token_hw
    window = 4 * config.projector.tokens
    speaker = Speaker(
        windows=lambda latents: torch.randn(len(latents), window, config.audio.n_mels, device=device),
        mask=torch.ones(h * w, device=device), speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    portrait = torch.rand(3, config.height, config.width, device=device)
    vae = model.vae  # type: ignore[attr-defined]
    scene = Scene(reference=vae.encode_image(portrait), speakers=(speaker,), frames=10**6)
    sampler = ChunkedSampler(model, replace(config.sampler, chunk_latents=chunk))  # type: ignore[arg-type]
    state, decoder, began = sampler.open(scene, 0), vae.open_decoder(portrait), 0.0
    for i in range(WARM + CHUNKS):
        if i == WARM:
            _wait(device)
            began = time.perf_counter()
        made, state = sampler.step(state)
        _, decoder = vae.decode(made.latents, decoder)
    _wait(device)
    return (time.perf_counter() - began) / CHUNKS * 1000


def _training(folder: Path, device: str) -> list[Result]:
    if not (folder / "inputs.safetensors").is_file():
        return [_row("training steps", "no inputs in " + str(folder), "")]
    rows, shop = [], TrainingRun(folder=folder, device=device)
    recipe = RECIPES["tiny_student"]()
    vae, inputs = shop.vae(recipe.model), shop.inputs("train")
    bank = ClipCache(vae, inputs, recipe.model, motion=recipe.motion, seed=0, folder=folder / "clips" / "train", device=device)
    began = time.perf_counter()
    for i in range(4):
        _ = bank[i]
    rows.append(_row("drawing and encoding a clip of 36 latents", round((time.perf_counter() - began) / 4 * 1000, 1), "ms"))
    for name in TRAINED:
        recipe = RECIPES[name]()
        if recipe.teacher and not shop.checkpoint(recipe.teacher).is_file():
            continue
        trainer = build_trainer(recipe, shop, ClipData(bank=bank, cfg=recipe.model, first_clips=4, renew_every=10**6), device=device)
        trainer.one_step()
        _wait(device)
        began = time.perf_counter()
        for _ in range(STEPS):
            trainer.one_step()
        _wait(device)
        rows.append(_row(f"a step of {name}, batch {recipe.train.batch}", round((time.perf_counter() - began) / STEPS * 1000, 1), "ms"))
    return rows
