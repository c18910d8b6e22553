"""Guidance: the two families' rules, their evaluations, and their samplers' noise levels."""

from __future__ import annotations

import pytest
import torch

from parity.golden import recorded
from tm_core.config import Guidance, GuidanceRule
from tm_core.families.registry import FAMILIES
from tm_core.streaming.guidance import BOTH, NEITHER, NO_AUDIO, NO_TEXT, join, noise_levels, passes

MADE = {p: torch.tensor([v]) for p, v in ((BOTH, 7.0), (NO_TEXT, 5.0), (NO_AUDIO, 3.0), (NEITHER, 2.0))}


@pytest.mark.parametrize(("guidance", "count", "value"), [
    (Guidance(), 1, 7.0),
    (Guidance(audio=4.0), 2, 3 + 4 * (7 - 3)),
    (Guidance(text=5.0, audio=4.0), 3, 2 + 5 * (7 - 5) + 4 * (5 - 2)),
    (Guidance(text=5.0, audio=4.0, rule="fantasytalking"), 3, 2 + 5 * (3 - 2) + 4 * (7 - 3)),
    (Guidance(audio=4.0, rule="fantasytalking"), 2, 3 + 4 * (7 - 3)),
    (Guidance(text=5.0), 2, 5 + 5 * (7 - 5)),
    (Guidance(text=5.0, rule="fantasytalking"), 2, 5 + 5 * (7 - 5)),
], ids=str)
def test_outputs_are_joined_as_the_family_does(guidance: Guidance, count: int, value: float) -> None:
    assert len(passes(guidance)) == count and passes(guidance)[0] == BOTH
    assert join(guidance, {p: MADE[p] for p in passes(guidance)}).item() == pytest.approx(value)


@pytest.mark.parametrize("rule", ["fantasytalking", "multitalk"])
def test_scales_of_one_are_no_guidance(rule: GuidanceRule) -> None:
    nearly = Guidance(text=1 + 1e-9, audio=1 + 1e-9, rule=rule)
    assert join(nearly, {p: MADE[p] for p in passes(nearly)}).item() == pytest.approx(7.0)


def test_levels_are_the_official_samplers() -> None:
    """Levels at which the official loops asked their network (parity/recorders/samplers.py); their arithmetic is float32."""
    for name in ("multitalk", "infinitetalk"):
        said = recorded(f"{name}_sampler")[0]["levels of 40 steps"].tolist()
        assert noise_levels(40, FAMILIES[name].shift, last=0.001) == pytest.approx(said, abs=1e-6)
    said = recorded("fantasytalking_sampler")[0]["levels of 30 steps"].tolist()
    assert noise_levels(30, FAMILIES["fantasytalking"].shift) == pytest.approx(said, abs=1e-6)
    assert noise_levels(1, 5.0) == (1.0,)
