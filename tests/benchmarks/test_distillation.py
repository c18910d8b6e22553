"""`bench distillation`: pooled figures of known curves, missing checkpoints, and one window of the bundled weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from benchmarks import distillation
from tm_core.errors import InputError
from tm_core.model.talking import TalkingModel
from tm_core.train.denoiser import Denoiser
from tm_core.train.recipes import RECIPES
from tm_core.train.training_run import TrainingRun

FPS = 25.0


def curves(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [gaussian_filter1d(rng.normal(size=81), 2.0) for _ in range(6)]


@pytest.mark.parametrize("delay", [-3, 0, 2])
def test_pooled_sync_finds_the_lag(delay: int) -> None:
    opening = curves()
    r, lag = distillation.pooled_sync([np.roll(c, delay) for c in opening], opening, FPS)
    assert lag == delay and r > 0.85


def test_pooled_sync_of_other_curves_is_low() -> None:
    assert distillation.pooled_sync(curves(1), curves(2), FPS)[0] < 0.4


def test_a_slow_part_of_each_window_does_not_count() -> None:
    opening = curves()
    lifted = [c + i for i, c in enumerate(opening)]
    assert distillation.pooled_sync(lifted, opening, FPS)[0] == pytest.approx(1.0, abs=1e-6)


def test_head_path_is_in_heights_of_the_face() -> None:
    landmarks = np.zeros((10, 468, 3))
    landmarks[:, 152, 1] = 50
    landmarks += np.linspace(0, 5, 10)[:, None, None] * np.array([1.0, 0, 0])
    path = distillation.head_path(landmarks)
    assert path[-1, 0] - path[0, 0] == pytest.approx(0.1) and np.ptp(path[:, 1]) == 0


def score(name: str, lip_r: float, frechet: float) -> distillation.Score:
    return distillation.Score(
        name=name, evaluations=2, lip_r=lip_r, lag=0, sync_c=lip_r * 5, sync_d=9.0, frechet=frechet, amplitude=1.0, head=1.0)


def test_the_bars() -> None:
    scores = [score("teacher", 0.8, 1.0), score("undistilled, causal", 0.6, 4.0), score("student", 0.75, 1.5)]
    bars = {r["what"]: r["ok"] for r in distillation.results(scores) if r["bar"] is not None}
    assert len(bars) == 5 and all(bars.values())
    worse = [replace(scores[0], lip_r=0.9), scores[1], scores[2]]
    failed = [r["what"] for r in distillation.results(worse) if r["ok"] is False]
    assert failed == ["student over teacher: lip r"]


def test_the_document_has_a_line_for_every_row() -> None:
    truth = replace(score("truth", 0.9, 0.0), evaluations=None, sync_c=math.nan)
    text = distillation.document([score("student", 0.75, 1.5), truth], 3, "here")
    assert "| student | 2 | 0.750 | 0 | 3.75 | 9.00 | 1.50 | 1.00 | 1.00 |" in text
    assert "| truth |  | 0.900 | 0 | - | 9.00 |" in text and text.isascii()


def test_a_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    training = TrainingRun(folder=tmp_path, device="cpu")
    with pytest.raises(InputError, match="talking-machines train tiny_teacher"):
        distillation.checkpoints(training, RECIPES["tiny_student"]().model)


@pytest.mark.slow
def test_one_window_of_the_bundled_weights(held_corpus: Path, model: TalkingModel) -> None:
    denoiser = Denoiser(model.config, model.projector)
    denoiser.dit.load_state_dict(model.dit.state_dict())
    found = {"tiny_teacher": denoiser.eval(), "tiny_student": denoiser}
    entries = distillation.contenders(found, model)
    assert [e.evaluations for e in entries] == [24, 2, 2, 2, 3]
    cheap = [e for e in entries if e.name in ("undistilled, causal", "student")]
    by = {s.name: s for s in distillation.compare(distillation.windows(model, 1), model.vae, cheap)}
    assert by["truth"].amplitude == pytest.approx(1.0) and by["truth"].lip_r > 0.5
    assert by["student"].lip_r == by["undistilled, causal"].lip_r > 0.3  # the same weights and noise
