"""Every stage trains, saves, and goes on from where it was; small, on generated inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tm_core.config import ModelConfig
from tm_core.errors import InputError
from tm_core.train.audio_augmentation import augment
from tm_core.train.autoencoder import AutoencoderTraining, train_autoencoder
from tm_core.train.checkpoint import Average, load_checkpoint, save_checkpoint
from tm_core.train.dataset import FLOOR, STEP, Inputs, load_inputs
from tm_core.train.phoneme_classifier import label_batch, train_phoneme_classifier
from tm_core.train.recipes import TINY
from tm_core.train.training_run import main
from tm_core.weights.loading import load_model

ASSETS = Path(__file__).parents[2] / "tm_core" / "assets"


def test_the_autoencoder_trains_and_goes_on(tmp_path: Path, inputs: Inputs, small: ModelConfig) -> None:
    path, points = tmp_path / "a.safetensors", []
    for _ in range(2):
        training = AutoencoderTraining(batch=4, fresh=1, people=2, buffer=8, first_clips=4, report_every=5)
        train_autoencoder(
            small, inputs, path, minutes=9, device="cpu", training=training, most_steps=15, report=points.append)
    steps = [p["step"] for p in points]
    assert len(steps) >= 2 and steps == sorted(set(steps))
    assert points[-1]["loss"] < points[0]["loss"]


def test_the_trunk_trains_and_goes_on(tmp_path: Path, inputs: Inputs, small: ModelConfig) -> None:
    points: list[dict[str, float]] = []
    for _ in range(2):
        train_phoneme_classifier(small, inputs.speech, inputs.speech, tmp_path / "l.safetensors", minutes=9, device="cpu", batch=4,
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


def test_another_pace_keeps_sound_and_labels_together(inputs: Inputs) -> None:
    """Rows and weights that both count the time still tell the same time after they were stretched."""
    frames = len(inputs.speech.weights)
    clock = torch.arange(frames) % 128
    speech = replace(
        inputs.speech, rows=(clock.repeat_interleave(4)[:, None] + torch.zeros(1, 80)).byte(),
        weights=clock[:, None].expand(-1, 6).half(), labels=clock.byte())
    rows, labels, weights, _ = label_batch(speech, 200, torch.Generator().manual_seed(0), paces=True)
    heard = ((rows - FLOOR) / STEP)[:, :, 0].unflatten(1, (20, 4)).mean(-1)
    plain = (heard.diff(dim=1).abs() < 2).all(1)  # no jump of the clock inside
    assert plain.sum() > 100
    assert (heard - weights[..., 0])[plain].abs().max() < 0.5 and (heard - labels)[plain].abs().max() < 1.01
    pace = weights[plain][:, -1, 0] - weights[plain][:, 0, 0]
    assert pace.min() < 16.5 and pace.max() > 21.5 and ((pace - 19).abs() < 1e-2).float().mean() > 0.15


def test_other_formants_move_a_peak_along_the_mel_axis() -> None:
    rows = torch.full((64, 8, 80), -5.0)
    rows[:, :, 40] = 5.0
    at = augment(rows, torch.Generator().manual_seed(1)).mean(1).argmax(1)
    assert at.min() < 38 and at.max() > 42


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
