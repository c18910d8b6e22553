"""Training checkpoints: weights, optimiser and position in one safetensors file, replaced whole.

`save_checkpoint` is for one module (autoencoder, audio trunk), `save_run` for a trainer with its roles. What is
random in a run follows from its seed and step, so these are the whole state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import InputError
from ..weights.files import save_tensors

if TYPE_CHECKING:
    from .trainer import Trainer


class Average:
    """Exponential moving average of a module's weights, the copy that is shipped."""

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move a little towards the module; faster while young."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for k, v in module.state_dict().items():
            self.weights[k].lerp_(v.float(), 1 - decay)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Go on from a saved average; sharded weights stay sharded."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        for k, mine in self.weights.items():
            value = weights[k].to(mine.device)
            sharded = isinstance(mine, DTensor)
            self.weights[k] = distribute_tensor(value, mine.device_mesh, mine.placements) if sharded else value
        self.steps = steps


def save_checkpoint(path: Path, module: nn.Module, average: Average, optimiser: torch.optim.Optimizer, info: dict[str, Any]) -> None:
    """Write everything needed to go on exactly here; `info` is JSON (step, seed, learning curve)."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in module.state_dict().items()}
    tensors.update({f"average.{k}": v for k, v in average.weights.items()})
    for i, state in optimiser.state_dict()["state"].items():
        tensors.update({f"optimiser.{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)})
    _write(path, tensors, {**info, "average_steps": average.steps})


def _write(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_tensors({path: held}, {"training": json.dumps(info)}, "checkpoint")


def read_info(path: Path) -> dict[str, Any]:
    """Step, minutes, learning curve and the like of a checkpoint."""
    with safe_open(str(path), "pt") as f:
        info: dict[str, Any] = json.loads(f.metadata()["training"])
    return info


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
        _write(path, tensors, {**info, **position})
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


def load_checkpoint(path: Path, module: nn.Module, average: Average, optimiser: torch.optim.Optimizer | None) -> dict[str, Any]:
    """The inverse; returns `info`."""
    with safe_open(str(path), "pt") as f:
        info: dict[str, Any] = json.loads(f.metadata()["training"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    device = next(module.parameters()).device
    average.weights = {k[8:]: v.to(device) for k, v in tensors.items() if k.startswith("average.")}
    average.steps = info["average_steps"]
    if optimiser is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for k, v in tensors.items():
            if k.startswith("optimiser."):
                _, index, name = k.split(".")
                state.setdefault(int(index), {})[name] = v
        if state:
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return info
