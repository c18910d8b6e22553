"""The machine as the host uses it: devices, how much memory is left on them, and the layers it can cast and move."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.ops
import torch

from .schemas import chosen

AUTO = "auto"


def offered() -> list[str]:
    """What a device widget offers: auto, the CPU and whatever the host may use besides."""
    own = comfy.model_management.get_torch_device()
    others = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if own.type == "cuda" else [str(own)]
    return list(dict.fromkeys([AUTO, "cpu", *others]))


def named(name: str) -> torch.device:
    """A device of the list; auto is the one the host computes on (so `--cpu` is respected)."""
    chosen("device", name, offered())
    return comfy.model_management.get_torch_device() if name == AUTO else torch.device(name)


def operations() -> Any:
    """The host's layers, for what we build: its casting, offloading and fp8 know no others."""
    return comfy.ops.disable_weight_init


def room_on(device: torch.device) -> int:
    """Bytes a stream may take on a device: weights can be put out of a GPU, out of main memory they cannot."""
    management = comfy.model_management
    if device.type == "cpu":
        return int(management.get_free_memory(device))
    return int(management.get_total_memory(device) - management.extra_reserved_memory())


def free_memory() -> int:
    """Bytes of main memory that can be had now."""
    return int(comfy.model_management.get_free_memory(torch.device("cpu")))
