"""Training checkpoints: weights, optimiser and position in one safetensors file, replaced whole.

For one module (autoencoder, audio trunk); run_checkpoint.py writes those of a trainer with its roles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..weights.files import save_tensors


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
    write_checkpoint(path, tensors, {**info, "average_steps": average.steps})


def write_checkpoint(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Tensors of any device, and what is known of them, in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_tensors({path: held}, {"training": json.dumps(info)}, "checkpoint")


def read_info(path: Path) -> dict[str, Any]:
    """Step, minutes, learning curve and the like of a checkpoint."""
    with safe_open(str(path), "pt") as f:
        info: dict[str, Any] = json.loads(f.metadata()["training"])
    return info


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
