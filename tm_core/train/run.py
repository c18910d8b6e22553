"""`talking-machines train RECIPE`: the stages of a recipe in order, each resumable, and the file they make.

`tiny`: the autoencoder, then the audio trunk on phone labels, then flow matching; the moving averages are
written in fp16, the learning curves as JSON beside them. A stage goes on from its checkpoint; on a machine
that has none, from the bundled weights. Non-goals: preparing data (corpus, data.prepare).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..config import ModelConfig, tiny
from ..errors import InputError
from ..model.talking import TalkingModel
from ..vae.tiny import TinyVAE
from ..weights.loading import default_weights, load_model, save_model
from .autoencoder import fit_scale, train_autoencoder
from .checkpoint import Average, load_checkpoint
from .data import Inputs, load_inputs, prepare
from .flow import Denoiser, train_flow
from .listen import Listener, train_listener

log = logging.getLogger(__name__)

STAGES = ("autoencoder", "listen", "flow")
RECIPES: dict[str, Callable[[], ModelConfig]] = {"tiny": tiny}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Minutes of wall time a stage gets; 0 leaves it as its checkpoint has it."""

    autoencoder: float = 15.0
    listen: float = 4.0
    flow: float = 60.0


def work_folder() -> Path:
    """Where inputs and checkpoints are (TM_BUILD, or build/train under the current folder)."""
    return Path(os.environ.get("TM_BUILD", "build/train"))


def main(
    recipe: str, *, resume: bool = True, minutes: float | None = None, device: str = "cpu", stage: str | None = None,
    motion: float = 0.0, out: Path | None = None,
) -> Path:
    """Run a recipe; `minutes` go to `stage` (by default the last one), whose predecessors must have checkpoints.

    Without `minutes` every stage gets its default budget. Returns the path of the weights. `prepare` instead of a
    recipe writes the training inputs from build/corpus.
    """
    folder = work_folder()
    if recipe == "prepare":
        return prepare(folder.parent / "corpus", folder / "inputs.safetensors", tiny())
    if recipe not in RECIPES:
        raise InputError("recipe", recipe, "not known", f"choose one of {', '.join([*RECIPES, 'prepare'])}")
    if stage is not None and stage not in STAGES:
        raise InputError("stage", stage, "not known", f"choose one of {', '.join(STAGES)}")
    budget = Budget() if minutes is None else Budget(**{s: minutes if s == (stage or "flow") else 0.0 for s in STAGES})
    cfg = RECIPES[recipe]()
    inputs, held = (_on(load_inputs(folder / "inputs.safetensors", split), device) for split in ("train", "held"))
    start = _shipped(cfg) if resume else None
    vae = train_autoencoder(cfg, inputs, folder / "autoencoder.safetensors", minutes=budget.autoencoder, device=device, resume=resume,
                            report=_teller("autoencoder"), start=cast(TinyVAE, start.vae) if start else None)
    if budget.autoencoder > 0 or (folder / "autoencoder.safetensors").is_file():
        fit_scale(vae, cfg, inputs, device)
    projector = train_listener(cfg, inputs.speech, held.speech, folder / "listen.safetensors", minutes=budget.listen, device=device,
                               resume=resume, report=_teller("listen"), start=start.projector if start else None)
    denoiser = train_flow(cfg, inputs, held, vae, projector, folder / "flow.safetensors", minutes=budget.flow, device=device,
                          motion=motion, resume=resume, report=_teller("flow"), start=start.dit if start else None)
    return export(cfg, vae, denoiser, folder, out or default_weights())


def _shipped(cfg: ModelConfig) -> TalkingModel | None:
    """The bundled weights, to go on from where the machine has no checkpoint of them."""
    if not default_weights().is_file():
        return None
    model = load_model()
    if model.config.to_dict() | {"sampler": None} != cfg.to_dict() | {"sampler": None}:
        log.info("the bundled weights have another shape; starting anew")
        return None
    return model


def _on(inputs: Inputs, device: str) -> Inputs:
    return Inputs(faces=inputs.faces.to(device), speech=inputs.speech.to(device), identities=inputs.identities)


def _teller(stage: str) -> Callable[[dict[str, Any]], None]:
    return lambda point: log.info("%s %s", stage, json.dumps(point))


def export(cfg: ModelConfig, vae: TinyVAE, denoiser: Denoiser, folder: Path, out: Path) -> Path:
    """Write the averaged weights and, beside them, the learning curves."""
    model = TalkingModel(config=cfg, dit=denoiser.dit, projector=denoiser.projector, vae=vae)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, out)
    out.with_suffix(".curve.json").write_text(json.dumps(curves(cfg, folder), indent=1))
    log.info("wrote %s", out)
    return out


def curves(cfg: ModelConfig, folder: Path) -> dict[str, Any]:
    """Steps, minutes and learning curve of every stage that has a checkpoint."""
    from safetensors import safe_open

    found = {}
    for stage in STAGES:
        if (path := folder / f"{stage}.safetensors").is_file():
            with safe_open(str(path), "pt") as f:
                info = json.loads(f.metadata()["training"])
            found[stage] = {"steps": info["step"], "minutes": info.get("minutes"), "curve": info["curve"]}
    return found


def snapshot(cfg: ModelConfig, folder: Path, out: Path, inputs: Inputs) -> Path:
    """Export what the checkpoints hold now, while training goes on."""
    assert cfg.vae is not None and cfg.projector is not None
    vae = train_autoencoder(cfg, inputs, folder / "autoencoder.safetensors", minutes=0, device="cpu")
    fit_scale(vae, cfg, inputs, "cpu")
    denoiser = Denoiser(cfg, Listener(cfg).projector)
    average = Average(denoiser)
    load_checkpoint(folder / "flow.safetensors", denoiser, average, None)
    denoiser.load_state_dict(average.weights)
    return export(cfg, vae, denoiser.eval(), folder, out)
