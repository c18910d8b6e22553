"""Many processes train as one: sharded or replicated weights, activation checkpointing, shares of sequences.

`torchrun` starts the processes; without it there is one, and everything here does nothing. The layouts are those
the paper trained with (section 4.2: HSDP, checkpointing, Ulysses in 2D with it).

One rule makes all of them add up: a rank's gradient is that of the sum of all ranks' losses, and a parameter's is
the mean over all ranks. Ranks of a sequence group compute the same loss from a share of the tokens each; their
collectives are differentiated exactly, so their mean is the whole sequence's gradient, as the mean over ranks of
different samples is the batch's.

Non-goals: what is computed (methods/), files (checkpoint.py), the exchange of a sequence's tokens (distributed/), streams: a
sharded model runs whole sequences only.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from ..distributed.process_group import join_processes, leave_processes, rank_and_size, sequence_group
from ..distributed.ulysses import UlyssesGroup
from ..errors import InputError
from ..model.blocks import Block

log = logging.getLogger(__name__)

ENTRANCES = ("network", "forward_x0")  # other methods than `forward` by which a whole sequence enters a model


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How processes share the work."""

    shard: Literal["none", "full", "hybrid"] = "none"  # weights: copied; over all ranks (FSDP2); in groups, copied across (HSDP)
    shard_size: int | None = None  # ranks of a hybrid group, best those of one node
    sequence: int = 1  # ranks that share the tokens of a sequence (Ulysses)
    checkpoint_activations: bool = False

    def check(self, size: int) -> None:
        """InputError where `size` processes cannot be laid out like this."""
        if self.sequence < 1 or size % self.sequence:
            raise InputError("sequence", self.sequence, f"must divide the {size} process(es)", "start as many with torchrun")
        if (self.shard == "hybrid") != (self.shard_size is not None):
            raise InputError("shard_size", self.shard_size, "belongs to shard 'hybrid'", "give both or neither")
        if self.shard_size is not None and (self.shard_size < 1 or size % self.shard_size):
            raise InputError("shard_size", self.shard_size, f"must divide the {size} process(es)", "start as many with torchrun")


@dataclass(frozen=True, kw_only=True)
class World:
    """What a process knows about the others. Ranks of a sequence group are neighbours and see the same samples.

    `sequence` goes to the models as an argument (Denoiser): wrapping a module does not tell it of the others.
    """

    cfg: ParallelConfig
    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None  # of the shards
    sequence: UlyssesGroup | None = None

    @staticmethod
    def open(cfg: ParallelConfig, device: str) -> World:
        """The processes that torchrun started (gloo on a CPU, nccl on CUDA), or one alone."""
        rank, size = rank_and_size()
        cfg.check(size)
        if size == 1:
            if cfg.shard != "none":
                log.warning("shard %s: one process has nobody to share weights with", cfg.shard)
            return World(cfg=cfg, device=torch.device(device))
        place = join_processes(device)
        group = sequence_group(cfg.sequence, place, size)
        return World(cfg=cfg, device=place, rank=rank, size=size, mesh=_mesh(cfg, place, size), sequence=group)

    @property
    def is_main(self) -> bool:
        """One process of all writes files."""
        return self.rank == 0

    @property
    def data_size(self) -> int:
        """How many shares a batch has."""
        return self.size // self.cfg.sequence

    @property
    def data_rank(self) -> int:
        """Which share is this process's."""
        return self.rank // self.cfg.sequence

    def wrap(self, module: nn.Module, *, trainable: bool = True) -> nn.Module:
        """The module laid out over the processes, in place; build its optimiser afterwards.

        All ranks begin with the main process's weights. `trainable` False: frozen, so nothing is recomputed.
        """
        if not trainable:
            module.requires_grad_(False)
        if self.size > 1:
            self._agree(module)
        blocks = [part for part in module.modules() if isinstance(part, Block)]
        if trainable and self.cfg.checkpoint_activations:
            for block in blocks:  # the method, not a wrapping module: names of weights stay
                recomputed = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
                block.forward = recomputed  # type: ignore[method-assign]
        if self.mesh is not None:
            _shard(module, blocks, self.mesh)
        return module

    @torch.no_grad()
    def _agree(self, module: nn.Module) -> None:
        for value in module.state_dict().values():
            common = value.to(self.device).contiguous()
            dist.broadcast(common, 0)
            value.copy_(common)

    def mine(self, batch_size: int) -> slice:
        """Which samples of a batch of all processes this one takes."""
        if batch_size % self.data_size:
            raise ValueError(f"a batch of {batch_size} is not {self.data_size} equal shares")
        part = batch_size // self.data_size
        return slice(self.data_rank * part, (self.data_rank + 1) * part)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the ranks of a tensor each of them has."""
        if self.size == 1:
            return value
        total = value.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return (total / self.size).to(value.device)

    @torch.no_grad()
    def reduce_gradients(self, module: nn.Module) -> None:
        """Gradients become their mean over all ranks, after `backward`; those of sharded weights already are."""
        if self.size == 1:
            return
        alike: dict[torch.dtype, list[Tensor]] = {}
        for grad in _gradients(module):
            if not isinstance(grad, DTensor):
                alike.setdefault(grad.dtype, []).append(grad)
        for grads in alike.values():
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            for grad, total in zip(grads, flat.div_(self.size).split([g.numel() for g in grads]), strict=True):
                grad.copy_(total.view_as(grad))

    @torch.no_grad()
    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients down to a global norm of at most `max_norm`; returns the norm they had, the same on all ranks."""
        grads = _gradients(module)
        sharded, plain = ([g for g in grads if isinstance(g, DTensor) is kind] for kind in (True, False))
        norms = [_whole(torch.nn.utils.get_total_norm(part)) for part in (sharded, plain) if part]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=self.device)
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            (grad.to_local() if isinstance(grad, DTensor) else grad).mul_(scale)
        return norm

    # -- whole weights, for checkpoints -----------------------------------------------------------------

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the main process, none on the others; all must call."""
        whole = {}
        for name, value in tensors.items():
            found = _whole(value.detach())
            if self.is_main:
                whole[name] = found.cpu() if isinstance(value, DTensor) else found
        return whole

    def full_state(self, module: nn.Module) -> dict[str, Tensor]:
        """`state_dict` as one process has it; see `gather`."""
        return self.gather(module.state_dict())

    def load_full_state(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        """The inverse; every rank hands in the whole state, as it reads it from the file."""
        own = module.state_dict()
        module.load_state_dict({k: _like(v, own[k]) if k in own else v for k, v in state.items()})

    def full_optimiser_state(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Its tensors by "index.name" (torch's own index: the parameter's place in the optimiser); see `gather`."""
        state = optimiser.state_dict()["state"]
        return self.gather({f"{i}.{k}": v for i, entry in state.items() for k, v in entry.items() if isinstance(v, Tensor)})

    def load_full_optimiser_state(self, module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
        """The inverse; every rank hands in the whole state. KeyError for a parameter the optimiser does not have."""
        params = dict(enumerate(p for group in optimiser.param_groups for p in group["params"]))
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, name = key.split(".")
            entries.setdefault(int(index), {})[name] = _like(value, params[int(index)]) if value.dim() else value.clone()
        if entries:
            optimiser.load_state_dict({**optimiser.state_dict(), "state": entries})

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the others; the process may open a world again."""
        if self.size > 1:
            leave_processes()


def _mesh(cfg: ParallelConfig, device: torch.device, size: int) -> DeviceMesh | None:
    if cfg.shard == "none":
        return None
    if cfg.shard_size is None:
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (size // cfg.shard_size, cfg.shard_size), mesh_dim_names=("copy", "shard"))


def _shard(module: nn.Module, blocks: Iterable[Block], mesh: DeviceMesh) -> None:
    """Every block, then the rest. The root too is sharded again after its forward: weights at rest are shards."""
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    for name in ENTRANCES:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Tensor, like: Tensor) -> Tensor:
    """The own part of a whole tensor, laid out as `like` is; no rank asks another."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
