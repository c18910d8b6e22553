"""Every stage trains, saves, and goes on from where it was; small, on generated inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tm_core.config import ModelConfig
from tm_core.errors import InputError
from tm_core.train.autoencoder import train_autoencoder
from tm_core.train.checkpoint import Average, load_checkpoint, save_checkpoint
from tm_core.train.data import Inputs, load_inputs
from tm_core.train.listen import augment, train_listener
from tm_core.train.recipes import TINY
from tm_core.train.run import main
from tm_core.weights.loading import load_model

ASSETS = Path(__file__).parents[2] / "tm_core" / "assets"


def test_the_autoencoder_trains_and_goes_on(tmp_path: Path, inputs: Inputs, small: ModelConfig) -> None:
    path, points = tmp_path / "a.safetensors", []
    for _ in range(2):
        train_autoencoder(small, inputs, path, minutes=9, device="cpu", batch=4, fresh=1, people=2, bank_size=8, first_clips=4,
                          most_steps=15, report_every=5, report=points.append)
    steps = [p["step"] for p in points]
    assert len(steps) >= 2 and steps == sorted(set(steps))
    assert points[-1]["loss"] < points[0]["loss"]


def test_the_trunk_trains_and_goes_on(tmp_path: Path, inputs: Inputs, small: ModelConfig) -> None:
    points: list[dict[str, float]] = []
    for _ in range(2):
        train_listener(small, inputs.speech, inputs.speech, tmp_path / "l.safetensors", minutes=9, device="cpu", batch=4,
                       most_steps=20, report_every=10, report=points.append)
    assert len(points) >= 2 and [p["step"] for p in points] == sorted({p["step"] for p in points})
    assert points[-1]["held_loss"] < points[0]["held_loss"]


def test_checkpoints_hold_everything(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, Average, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, Average(module), torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: torch.nn.Linear, average: Average, optimiser: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update(module)

    straight, resumed = make(), make()
    for _ in range(4):
        step(*straight)
    step(*resumed)
    step(*resumed)
    save_checkpoint(tmp_path / "c.safetensors", *resumed, {"step": 2})
    resumed = make()
    assert load_checkpoint(tmp_path / "c.safetensors", *resumed)["step"] == 2
    step(*resumed)
    step(*resumed)
    assert torch.equal(straight[0].weight, resumed[0].weight)
    assert torch.equal(straight[1].weights["weight"], resumed[1].weights["weight"])


def test_augmentation_keeps_the_floor() -> None:
    rows = torch.full((4, 80, 80), -11.6)
    heard = augment(rows, torch.Generator().manual_seed(0))
    assert torch.isfinite(heard).all() and heard.min() >= -11.6


def test_bad_calls_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TM_BUILD", str(tmp_path))
    with pytest.raises(InputError, match=r"^recipe: "):
        main("huge")
    with pytest.raises(InputError, match=r"^recipe: .*needs footage"):
        main("paper_stage3")
    with pytest.raises(InputError, match=r"^inputs: "):
        load_inputs(tmp_path / "none.safetensors", "train")


def test_the_bundled_weights_come_with_their_learning_curve() -> None:
    import json

    curve = json.loads((ASSETS / "weights" / "tiny.curve.json").read_text())
    assert set(curve) <= set(TINY) and curve["tiny_student"]["curve"][-1]["step"] <= curve["tiny_student"]["steps"]
    assert load_model().projector is not None
