"""Checkpoints of a run: all trained roles, their optimisers, the average and the position in one safetensors file.

What is random in a run follows from its seed and step, so this is the whole state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..errors import InputError
from .checkpoint import read_info, write_checkpoint
from .trainer import Trainer


def save_run(path: Path, trainer: Trainer, info: dict[str, Any]) -> None:
    """All trained roles, their optimisers, the average and the position; the main process writes."""
    world, tensors = trainer.world, dict[str, Tensor]()
    for role, optimiser in trainer.optimisers.items():
        module = trainer.method.roles[role]
        tensors |= {f"{role}.{k}": v for k, v in world.full_state(module).items()}
        state = world.full_optimiser_state(module, optimiser)
        tensors |= {f"optimiser.{role}.{k}": v for k, v in state.items()}
    tensors |= {f"average.{k}": v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in trainer.average.weights.items()}
    position = {"step": trainer.step, "minutes": round(trainer.minutes, 2), "average_steps": trainer.average.steps}
    if world.is_main:
        write_checkpoint(path, tensors, {**info, **position})
    world.barrier()


def load_run(path: Path, trainer: Trainer, fixed: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """The inverse, into a trainer that was just made; returns what else was saved. InputError for another model's.

    `fixed`: weights by name that take the place of the saved ones in all roles and in the average.
    """
    info = read_info(path)
    with safe_open(str(path), "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    for part in (*trainer.optimisers, "average"):
        tensors |= {f"{part}.{k}": v for k, v in (fixed or {}).items()}
    world = trainer.world
    try:
        for role, optimiser in trainer.optimisers.items():
            module = trainer.method.roles[role]
            world.load_full_state(module, _below(tensors, f"{role}."))
            world.load_full_optimiser_state(module, optimiser, _below(tensors, f"optimiser.{role}."))
    except (RuntimeError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise InputError("checkpoint", path, f"is of another model ({first})", "move it away, or train --fresh") from error
    trainer.average.load(_below(tensors, "average."), info["average_steps"])
    trainer.step, trainer.minutes = info["step"], info["minutes"]
    return info


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
