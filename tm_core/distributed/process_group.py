"""The processes that torchrun started: meeting them, and who of them shares sequences with this one.

gloo on a CPU, nccl on CUDA. Non-goals: what they exchange (ulysses.py), how weights and batches are laid out (train/parallel.py).
"""

from __future__ import annotations

import itertools
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from ..errors import InputError
from .ulysses import UlyssesGroup

_meetings = itertools.count()  # of this process; all processes meet equally often


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_processes(device: str) -> torch.device:
    """Meet the other processes; the device of this one. `leave_processes` is the inverse."""
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise InputError("device", device, "one process only", "start torchrun with cuda or cpu")
    place = torch.device("cpu")
    if kind == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    store, rank, size = next(rendezvous("env://"))
    # torchrun's store still holds the keys of a world closed before
    own = dist.PrefixStore(f"tm_world{next(_meetings)}", store)  # type: ignore[attr-defined]
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, device_id=place if kind == "cuda" else None)
    return place


def leave_processes() -> None:
    """Leave the others; the process may join them again."""
    dist.destroy_process_group()


def sequence_group(degree: int, device: torch.device, size: int) -> UlyssesGroup | None:
    """The group of `degree` neighbouring ranks of `size` that this one shares sequences with; None where it is alone."""
    if degree == 1:
        return None
    mesh = init_device_mesh(device.type, (size // degree, degree), mesh_dim_names=("data", "sequence"))
    return UlyssesGroup(group=mesh.get_group("sequence"), rank=mesh.get_local_rank("sequence"), degree=degree)
