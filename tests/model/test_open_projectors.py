"""Audio projections of the open checkpoints: recorded numbers, published names, true shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.seeded import fill, fill_state
from tm_core.audio.speech_windows import FrameWindows
from tm_core.model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig

BAR = 1e-4
Golden = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


def weights_of(source: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of the recorded projection, by the rule of parity/seeded.py."""
    return fill_state({name: tuple(shape) for name, shape in source["shapes"].items()})


def test_fantasytalkings_projection(golden: Golden) -> None:
    recorded, source = golden("fantasytalking")
    features = fill("features", (1, *source["features"]))[0] * 5
    weights = weights_of(source)
    model = FantasyProjector(FantasyProjectorConfig.of({k: tuple(v.shape) for k, v in weights.items()}))
    model.load_state_dict(weights)
    made = model(features)
    assert (made - recorded["tokens"]).abs().max() <= BAR


def test_multitalks_projection(golden: Golden) -> None:
    recorded, source = golden("multitalk")
    p = source["projector"]
    first, later = (fill(f"window{n}", (2, f, n, p["blocks"], p["channels"])) * 10 for f, n in ((1, 5), (3, 8)))
    weights = weights_of(source)
    model = GroupedProjector(GroupedProjectorConfig.of({k: tuple(v.shape) for k, v in weights.items()}, layers=p["blocks"]))
    model.load_state_dict(weights)
    assert model.cfg == GroupedProjectorConfig(layers=3, audio_dim=16, hidden=24, dim=20, tokens=4)
    made = model(first, later)
    assert (made - recorded["tokens"]).abs().max() <= BAR
    assert recorded["tokens"].std() > 0.5
    # a later chunk has no first latent: its tokens are the same
    assert torch.allclose(model(first[:, :0], later[:, 1:]), made[:, 2:], atol=1e-6)


def test_windows_fit_the_projection() -> None:
    model = GroupedProjector(GroupedProjectorConfig(layers=2, audio_dim=4, hidden=8, dim=6, tokens=3))
    features = torch.randn(40, 2, 4)
    for latents, count in ((range(3), 3), (range(3, 6), 3)):
        windows = FrameWindows().windows(features, latents)
        assert model(windows.first[None], windows.later[None]).shape == (1, count, 3, 6)


def test_true_shapes_and_parameter_counts() -> None:
    fantasy, grouped = FantasyProjector(device="meta"), GroupedProjector(device="meta")
    assert {k: tuple(v.shape) for k, v in fantasy.state_dict().items()} == {
        "proj.weight": (2048, 768), "norm.weight": (2048,), "norm.bias": (2048,)}  # fmt: skip
    assert {k: tuple(v.shape) for k, v in grouped.state_dict().items() if k.endswith("weight")} == {
        "proj1.weight": (512, 46080), "proj1_vf.weight": (512, 73728), "proj2.weight": (512, 512), "proj3.weight": (24576, 512),
        "norm.weight": (768,)}  # fmt: skip
    assert sum(p.numel() for p in fantasy.parameters()) == 1_576_960
    assert sum(p.numel() for p in grouped.parameters()) == 512 * (46080 + 73728 + 512 + 3) + 24576 * 513 + 2 * 768


@pytest.mark.parametrize("cls", [FantasyProjector, GroupedProjector])
def test_layers_come_from_operations(cls: Any) -> None:
    class Marked(torch.nn.Linear):
        pass

    class Operations:
        Linear, LayerNorm = Marked, torch.nn.LayerNorm

    model = cls(operations=Operations, device="meta")
    assert all(type(m) is Marked for m in model.modules() if isinstance(m, torch.nn.Linear))
