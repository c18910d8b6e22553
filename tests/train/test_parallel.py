"""Many processes compute what one does: real processes, of two started by torchrun, talking through gloo."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tm_core.errors import InputError
from tm_core.model.blocks import Block
from tm_core.train.parallel import ParallelConfig, World

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("parallel_worker.py")
TOLERANCE = 1e-5


def load_worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tm_parallel_worker", SCRIPT)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()
OF_TWO = [name for name in worker.CASES if " of " not in name.replace("stripes of", "")]


@cache
def alone(latents: int, chunk: int | None, passes: int, last: int = worker.STEPS) -> dict[str, Tensor]:
    """What one process computes."""
    return worker.train(worker.case(latents, chunk, passes, last=last), "cpu")[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def finish(folder: Path, *command: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as run:
        try:
            told = run.communicate(timeout=600)[0]
        finally:
            run.terminate()  # torchrun ends its processes then; killed, it would leave them
    assert run.returncode == 0, told[-6000:]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all cases of two processes: one start, since that takes longer than the steps."""
    folder = tmp_path_factory.mktemp("two")
    worker.save(alone(*worker.CASES["resumed by two"].task, last=worker.HALF), folder / "half.safetensors")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    finish(folder, *launch, str(SCRIPT), str(folder), *OF_TWO)
    return folder


OF_MORE = {"ulysses of three, 21 latents": 3, "ulysses of two, hybrid of two": 4}


@pytest.fixture(scope="module")
def by_more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three and of four processes, forks of one."""
    folder = tmp_path_factory.mktemp("more")
    cases = [word for name, count in OF_MORE.items() for word in (f"{count}", f"{free_port()}", name)]
    finish(folder, str(SCRIPT), "--fork", str(folder), *cases)
    return folder


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    apart = {k: (v - expected[k]).abs().max().item() for k, v in found.items()}
    assert max(apart.values()) <= TOLERANCE, sorted(apart.items(), key=lambda kv: -kv[1])[:5]


WHOLE_RUNS = [name for name in OF_TWO if not name.endswith("by two")]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_two_processes_are_one(by_two: Path, name: str) -> None:
    """Losses, gradient norms, weights and AdamW's state after three steps."""
    assert_equal(load_file(str(by_two / f"{name}.safetensors")), alone(*worker.CASES[name].task))


@pytest.mark.slow
def test_one_process_saves_and_two_resume(by_two: Path) -> None:
    found, expected = load_file(str(by_two / "resumed by two.safetensors")), alone(*worker.CASES["resumed by two"].task)
    last = {k: v[worker.HALF :] if k in ("losses", "norms") else v for k, v in expected.items()}
    assert_equal(found, last)


@pytest.mark.slow
def test_two_processes_save_and_one_resumes(by_two: Path) -> None:
    found = worker.train(worker.case(first=worker.HALF), "cpu", by_two / "saved by two.safetensors")[1]
    expected = alone(*worker.CASES["saved by two"].task)
    assert_equal(found, {k: v[worker.HALF :] if k in ("losses", "norms") else v for k, v in expected.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_MORE)
def test_more_processes_are_one(by_more: Path, name: str) -> None:
    assert_equal(load_file(str(by_more / f"{name}.safetensors")), alone(*worker.CASES[name].task))


def kept_for_backward(model: torch.nn.Module, what: object) -> tuple[int, list[Tensor]]:
    """Bytes that the forward keeps (inputs of checkpointed blocks among them), and the gradients."""
    total, seen = 0, set()

    def keep(t: Tensor) -> Tensor:
        nonlocal total
        if t.data_ptr() not in seen:
            total += t.untyped_storage().nbytes()
            seen.add(t.data_ptr())
        return t

    hooks = [b.register_forward_pre_hook(lambda _, args: (keep(args[0]), None)[1]) for b in model.modules() if isinstance(b, Block)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = worker.loss_of(model, worker.draw(0, 12), what)
    kept = total
    loss.backward()
    for hook in hooks:
        hook.remove()
    return kept, [p.grad for p in model.parameters() if p.grad is not None]


def test_checkpointed_activations_take_less_and_change_nothing() -> None:
    what, results = worker.CASES["data"], {}
    for on in (False, True):
        world = World.open(ParallelConfig(checkpoint_activations=on), "cpu")
        results[on] = kept_for_backward(worker.build(world)[0], what)
    (plain, expected), (less, found) = results[False], results[True]
    assert len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert less < plain / 3, (less, plain)


def test_frozen_modules_are_not_recomputed() -> None:
    world = World.open(ParallelConfig(checkpoint_activations=True), "cpu")
    teacher = world.wrap(worker.Talker(), trainable=False)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all("forward" not in vars(m) for m in teacher.modules())


@pytest.mark.parametrize(("parallel", "field"), [
    ({"sequence": 3}, "sequence"), ({"sequence": 0}, "sequence"), ({"shard": "hybrid"}, "shard_size"),
    ({"shard": "hybrid", "shard_size": 3}, "shard_size"), ({"shard": "full", "shard_size": 2}, "shard_size"),
])
def test_layouts_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, parallel: dict[str, object], field: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError) as error:
        World.open(ParallelConfig(**parallel), "cpu")
    assert error.value.field == field


def test_a_batch_is_shared_by_the_ranks_that_see_different_samples() -> None:
    worlds = [World(cfg=ParallelConfig(sequence=2), device=torch.device("cpu"), rank=r, size=6) for r in range(6)]
    assert [w.mine(6) for w in worlds] == [slice(i, i + 2) for i in (0, 0, 2, 2, 4, 4)]
    assert [w.is_main for w in worlds] == [True] + [False] * 5
    with pytest.raises(ValueError):
        worlds[0].mine(4)
