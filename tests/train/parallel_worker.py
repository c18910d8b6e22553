"""What test_parallel.py trains, on one process or, as torchrun's script, on many: `parallel_worker.py FOLDER CASE...`.

Every case is three steps of a small model from the same weights on the same batches, however many processes share them.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tm_core.config import DiTConfig
from tm_core.model.dit import SequenceGroup, TalkingDiT
from tm_core.train.parallel import ParallelConfig, World

SMALL = DiTConfig(dim=96, ffn_dim=128, num_heads=6, num_layers=2, text_dim=8, text_len=3, image_dim=None, audio_dim=24)
BATCH, STEPS, HALF = 4, 3, 2
Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is computed (task) and by which processes."""

    parallel: ParallelConfig
    latents: int = 12
    chunk: int | None = 4
    passes: int = 1  # 2: the network's answer goes through it again, with its gradient
    first: int = 0  # step to begin at; above 0 from the folder's `half` file
    last: int = STEPS

    @property
    def task(self) -> tuple[int, int | None, int]:
        """Equal for cases that compute the same."""
        return self.latents, self.chunk, self.passes


def case(latents: int = 12, chunk: int | None = 4, passes: int = 1, first: int = 0, last: int = STEPS, **parallel: object) -> Case:
    return Case(parallel=ParallelConfig(**parallel), latents=latents, chunk=chunk, passes=passes, first=first, last=last)


CASES = {
    "data": case(),
    "data, full attention": case(chunk=None),
    "full": case(shard="full"),
    "full, checkpointed": case(shard="full", checkpoint_activations=True),
    "hybrid, copies": case(shard="hybrid", shard_size=1),
    "hybrid, shards": case(shard="hybrid", shard_size=2),
    "ulysses, mask": case(sequence=2),
    "ulysses, full attention": case(chunk=None, sequence=2),
    "ulysses, stripes of 21 latents": case(21, 3, sequence=2),
    "ulysses, two passes": case(passes=2, sequence=2),
    "ulysses, full, checkpointed": case(shard="full", sequence=2, checkpoint_activations=True),
    "saved by two": case(shard="full", last=HALF),
    "resumed by two": case(shard="full", first=HALF),
    "ulysses of three, 21 latents": case(21, 3, sequence=3),
    "ulysses of two, hybrid of two": case(shard="hybrid", shard_size=2, sequence=2),
}


class Talker(nn.Module):
    """A transformer and something before it that learns as well, as the audio projector does."""

    def __init__(self, sequence: SequenceGroup | None = None) -> None:
        super().__init__()
        self.sequence = sequence
        self.dit = TalkingDiT(SMALL)
        self.dit.init_weights()
        nn.init.normal_(self.dit.head.head.weight, std=0.05)
        self.ear = nn.Linear(24, 24)

    def forward(self, x: Tensor, batch: Tensors, chunk: int | None) -> Tensor:
        made: Tensor = self.dit.forward_x0(
            x, batch["sigma"], reference=batch["reference"], text=batch["text"], audio=self.ear(batch["audio"]),
            face_mask=batch["face_mask"], chunk_latents=chunk, sequence=self.sequence)
        return made


def draw(step: int, latents: int) -> Tensors:
    """The whole batch of a step: 6 x 4 pixels of latents are 3 x 2 tokens."""
    rng = torch.Generator().manual_seed(100 + step)
    shapes = {
        "x": (16, latents, 6, 4), "target": (16, latents, 6, 4), "reference": (20, latents, 6, 4), "text": (3, 8),
        "audio": (2, latents, 5, 24), "face_mask": (2, latents, 6),
    }
    batch = {k: torch.randn(BATCH, *shape, generator=rng) for k, shape in shapes.items()}
    return batch | {"face_mask": batch["face_mask"].sigmoid(), "sigma": torch.rand(BATCH, generator=rng)}


def build(world: World) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(world.rank)  # the main process's weights are the ones that count
    model = world.wrap(Talker(world.sequence))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)


def loss_of(model: nn.Module, part: Tensors, what: Case) -> Tensor:
    made = model(part["x"], part, what.chunk)
    for _ in range(what.passes - 1):
        made = model(made, part, what.chunk)
    return ((made - part["target"]) ** 2).mean()


def one_step(world: World, model: nn.Module, optimiser: torch.optim.Optimizer, what: Case, step: int) -> tuple[Tensor, Tensor]:
    """(loss of the whole batch, gradient norm before clipping)."""
    mine = world.mine(BATCH)
    part = {k: v[mine].to(world.device) for k, v in draw(step, what.latents).items()}
    with torch.no_grad():  # a student also answers for its critic
        loss_of(model, part, what)
    optimiser.zero_grad(set_to_none=True)
    loss = loss_of(model, part, what)
    loss.backward()
    world.reduce_gradients(model)
    norm = world.clip(model, 0.1)
    optimiser.step()
    return world.mean(loss.detach()), norm


def state_of(world: World, model: nn.Module, optimiser: torch.optim.Optimizer) -> Tensors:
    whole = {f"model.{k}": v for k, v in world.full_state(model).items()}
    return whole | {f"optimiser.{k}": v for k, v in world.full_optimiser_state(model, optimiser).items()}


def below(tensors: Tensors, prefix: str) -> Tensors:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def train(what: Case, device: str, half: Path | None = None) -> tuple[World, Tensors]:
    """Weights, optimiser state, losses and gradient norms after the case's steps, on the main process."""
    world = World.open(what.parallel, device)
    model, optimiser = build(world)
    if what.first:
        saved = load_file(str(half))
        world.load_full_state(model, below(saved, "model."))
        world.load_full_optimiser_state(model, optimiser, below(saved, "optimiser."))
    told = [one_step(world, model, optimiser, what, step) for step in range(what.first, what.last)]
    result = state_of(world, model, optimiser)
    losses, norms = (torch.stack(t).cpu() for t in zip(*told, strict=True))
    return world, result | {"losses": losses, "norms": norms}


def save(tensors: Tensors, path: Path) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, str(path))


def main(folder: Path, names: list[str], device: str = "cpu") -> None:
    for name in names:
        world, result = train(CASES[name], device, folder / "half.safetensors")
        if world.is_main:
            save(result, folder / f"{name}.safetensors")
        world.barrier()
        world.close()


def fork(processes: int, port: int, folder: Path, names: list[str]) -> None:
    """`main` in so many forks of this process, which has imported torch already; with torchrun each imports it anew."""
    ranks = []
    for rank in range(processes):
        if (pid := os.fork()) == 0:
            os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
            try:
                main(folder, names)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        ranks.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in ranks]  # of all of them, whichever fails
    if any(ends):
        raise SystemExit(f"{names}: failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--fork":  # FOLDER, then PROCESSES PORT CASE of each
        for processes, port, name in zip(*(sys.argv[3 + i :: 3] for i in range(3)), strict=True):
            fork(int(processes), int(port), Path(sys.argv[2]), [name])
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
