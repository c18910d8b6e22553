"""Two speakers in clips: the official samplers' latents, and what is said where voices cannot be heard together."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest
import torch

from parity.golden import BAR
from parity.recorders.samplers import Case
from parity.two_speakers import CASES, PRESETS, of_case, portrait, projector, sampler_gap, scene, transformer
from tests.streaming.test_sampler import CONFIG
from tm_core.config import ClipConfig, SamplerConfig
from tm_core.errors import InputError
from tm_core.families.registry import FAMILIES
from tm_core.model.talking import TalkingModel
from tm_core.streaming.clip_sampler import ClipSampler
from tm_core.streaming.sampler import ChunkedSampler, Scene
from tm_core.vae.tiny import TinyVAE

CLIP = SamplerConfig(sigmas=(1.0,), clip=ClipConfig(latents=3, motion_latents=1))


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    assert CONFIG.vae is not None
    dit = transformer("multitalk", "together")
    return TalkingModel(config=replace(CONFIG, dit=dit.cfg), dit=dit, projector=projector(), vae=TinyVAE(CONFIG.vae).eval())


def people(count: int) -> Scene:
    """As many speakers, each with tokens of their own."""
    two = scene(torch.zeros(16, 8, 8))
    masks = torch.eye(4).repeat_interleave(4, 0).T[:count]
    return replace(two, speakers=tuple(replace(two.speakers[0], mask=mask) for mask in masks), picture=portrait())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", PRESETS)
def test_two_clips_of_two_people_are_the_official_pipelines(name: str, case: Case) -> None:
    """Boxes become masks, windows tokens, and the silence that guidance steps away from is one voice's."""
    assert sampler_gap(name, case) <= BAR and of_case(name, case)["clip 1"].std() > 0.5
    assert sampler_gap(name, case, "apart") > 1


def test_families_know_how_two_are_heard() -> None:
    assert {name for name, family in FAMILIES.items() if family.voices == "together"} == {"multitalk", "infinitetalk_multi"}
    single, multi = FAMILIES["infinitetalk"], FAMILIES["infinitetalk_multi"]
    assert replace(multi, name=single.name, title=single.title, voices="apart") == single


@pytest.mark.parametrize(("count", "chunks", "says"), [
    (1, False, ""), (2, False, ""), (1, True, ""), (3, False, "3 voices are heard apart.*two in a clip, not 3"),
    (2, True, "2 voices are heard apart.*not in chunks")])
def test_where_voices_are_heard_apart_one_line_says_so(
    model: TalkingModel, caplog: pytest.LogCaptureFixture, count: int, chunks: bool, says: str,
) -> None:
    with caplog.at_level(logging.INFO, logger="tm_core"):
        (ChunkedSampler(model, replace(CLIP, clip=None)) if chunks else ClipSampler(model, CLIP)).open(people(count), 0)
    lines = [r.message for r in caplog.records]
    assert len(lines) == bool(says) and re.search(says, "".join(lines))


def test_voices_that_have_no_place_of_their_own_are_refused(model: TalkingModel) -> None:
    two = people(2)
    first, second = two.speakers
    for wrong, says in ((first.mask, r"speakers\[1\].mask: that of speakers\[0\]"), (torch.zeros(16), r"speakers\[1\].mask: empty")):
        with pytest.raises(InputError, match=says):
            ClipSampler(model, CLIP).open(replace(two, speakers=(first, replace(second, mask=wrong))), 0)
