"""The audio projector: one token per video frame, nothing heard from outside the window."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tm_core.config import AudioProjectorConfig, tiny
from tm_core.model.audio_projector import AudioProjector

CONFIG = tiny().projector or AudioProjectorConfig()


@pytest.fixture
def projector() -> AudioProjector:
    return AudioProjector(CONFIG).eval()


@torch.no_grad()
def test_windows_are_kept_apart(projector: AudioProjector) -> None:
    windows = torch.randn(2, 4, 80, 80)
    before = projector(windows)
    assert before.shape == (2, 4, 20, CONFIG.dim)
    windows[:, 3] += 1
    after = projector(windows)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3], before[:, 3], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("rows", [80, 400], ids=lambda r: f"{r} rows")
def test_the_trunk_takes_sound_of_any_length(projector: AudioProjector, rows: int) -> None:
    """Pre-training on phones runs it over whole stretches: away from the ends it must be what a window gives."""
    sound = torch.randn(1, rows, 80)
    features = projector.trunk(sound)
    assert features.shape == (1, rows // 4, CONFIG.width)
    near = sound.clone()
    near[:, 40:44] += 1
    changed = (projector.trunk(near) - features).abs().amax((0, 2)) > 1e-6
    assert changed[10] and changed.nonzero().min() <= 10 <= changed.nonzero().max()


@torch.no_grad()
def test_tokens_tell_where_in_the_window_they_stand(projector: AudioProjector) -> None:
    tokens = projector(torch.zeros(1, 1, 80, 80) - 6)[0, 0]
    assert (tokens[8] - tokens[12]).abs().max() > 0.01  # equal sound, far from both ends


@torch.no_grad()
def test_loudness_of_any_recording_gives_finite_tokens(projector: AudioProjector) -> None:
    for level in (-11.5, -6.0, 5.0):
        assert projector(torch.full((1, 1, 80, 80), level)).isfinite().all()


def test_it_is_small(projector: AudioProjector) -> None:
    assert 0.3e6 < sum(p.numel() for p in projector.parameters()) < 1.5e6


def test_every_layer_comes_from_the_injected_operations() -> None:
    kinds = ("Linear", "Conv1d", "LayerNorm")
    operations = SimpleNamespace(**{kind: type(f"Host{kind}", (getattr(torch.nn, kind),), {}) for kind in kinds})
    built = AudioProjector(CONFIG, operations=operations)
    leaves = [m for m in built.modules() if not list(m.children()) and list(m.parameters())]
    assert leaves and all(type(m).__name__.startswith("Host") for m in leaves)
