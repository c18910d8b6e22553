"""What a user may choose about sampling, for our own models and for every open family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tm_core.config import ClipConfig, ModelConfig, tiny
from tm_core.errors import InputError
from tm_core.families.registry import FAMILIES
from tm_core.families.settings import Choices, settings

OWN = tiny()


def of(name: str, shift: float | None = None) -> ModelConfig:
    family = FAMILIES[name]
    return replace(OWN, family=name, sampler=family.sampler(), shift=shift)


def test_nothing_chosen_is_what_the_model_was_made_for() -> None:
    assert settings(OWN, Choices()) == OWN.sampler
    for name, family in FAMILIES.items():
        assert settings(of(name), Choices()) == family.sampler()


def test_the_families_are_sampled_as_they_were_trained() -> None:
    made = {name: settings(of(name), Choices()) for name in FAMILIES}
    assert {n: s.num_steps for n, s in made.items()} == {
        "wan_i2v": 40, "fantasytalking": 30, "multitalk": 40, "infinitetalk": 40, "infinitetalk_multi": 40, "flashtalk": 4, "liveact": 3}
    assert {n for n, s in made.items() if s.renoise} == {"flashtalk", "liveact"}
    assert {n for n, s in made.items() if s.clip is None} == {"liveact"} and made["liveact"].history is not None
    assert made["flashtalk"].clip == ClipConfig(latents=9, motion_latents=2)
    assert made["flashtalk"].sigmas == pytest.approx((1, 0.9375, 5 / 6, 0.625))
    assert all(s.sigmas[0] == 1 and list(s.sigmas) == sorted(s.sigmas, reverse=True) for s in made.values())


def test_two_steps_of_flashtalk_are_its_authors_list() -> None:
    """Their code has [1000, 500] besides the four; both pass the shift."""
    assert settings(of("flashtalk"), Choices(steps=2)).sigmas == pytest.approx((1, 5 * 0.5 / (1 + 4 * 0.5)))


def test_a_shift_in_the_graph_counts() -> None:
    even = settings(of("infinitetalk", shift=1.0), Choices(steps=3)).sigmas
    assert even == pytest.approx((1, 0.5005, 0.001)) and settings(of("infinitetalk"), Choices(steps=3)).sigmas[1] > 0.8


def test_any_clip_model_may_be_asked_for_sparse_causal_chunks() -> None:
    made = settings(of("infinitetalk"), Choices(mode="sparse_causal", cache="clean_rerun", text=1, audio=2))
    assert made.clip is None and made.cache_mode == "clean_rerun" and made.chunk_latents == 3 and made.colour_correction == 0
    assert (made.guidance.text, made.guidance.audio) == (1, 2)
    assert settings(of("infinitetalk"), Choices(colour_correction=0.0)).colour_correction == 0


@pytest.mark.parametrize(("config", "choices", "says"), [
    (OWN, Choices(mode="bidirectional"), "mode: bidirectional: tiny was made to stream"),
    (OWN, Choices(text=3.0), "text_guidance: 3.0: tiny reads no prompt"),
    (OWN, Choices(steps=0), "steps: 0: must be 1 to 100"),
    (OWN, Choices(audio=99.0), "audio_guidance: 99.0: must be 0 to 30"),
    (OWN, Choices(colour_correction=2.0), "colour_correction: 2.0"),
    (of("flashtalk"), Choices(cache="per_step"), "cache: per_step: clips sampled at once keep no cache"),
    (of("liveact"), Choices(mode="bidirectional"), "mode: bidirectional: SoulX-LiveAct was made to stream"),
    (of("liveact"), Choices(steps=4), "steps: 4: SoulX-LiveAct was distilled for 3"),
], ids=lambda v: str(v)[:30] if isinstance(v, str) else "")
def test_what_a_model_cannot_follow_says_so(config: ModelConfig, choices: Choices, says: str) -> None:
    with pytest.raises(InputError) as error:
        settings(config, choices)
    assert str(error.value).startswith(says)
