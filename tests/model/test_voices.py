"""Two voices in one attention: regions, places, and what each place hears."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from parity.golden import BAR, recorded
from parity.two_speakers import PRESETS, gap, transformer_gap, velocity
from tm_core.config import DiTConfig
from tm_core.errors import InputError
from tm_core.model.blocks import AudioKV, attend_audio_together
from tm_core.model.dit import TalkingDiT
from tm_core.model.voices import BACKGROUND, STANDS, places, positions, regions_of, turned

SMALL = DiTConfig(
    dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=1, image_dim=None, audio_dim=24, audio_kind="own_q_kv_proj")
LEFT, RIGHT = torch.eye(4)[0].repeat(4), torch.eye(4)[3].repeat(4)  # columns of 4 x 4 tokens
SIGMA = torch.tensor([0.7])


def random_dit(**changes: object) -> TalkingDiT:
    torch.manual_seed(1)
    dit = TalkingDiT(replace(SMALL, **changes))  # type: ignore[arg-type]
    dit.init_weights()
    torch.nn.init.normal_(dit.head.head.weight, std=0.05)
    return dit.eval()


def inputs(speakers: int, latents: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(2)
    masks = torch.stack([LEFT, RIGHT, 1 - LEFT - RIGHT][:speakers])[None]
    return {
        "x": torch.randn(1, 16, latents, 8, 8), "reference": torch.randn(1, 20, latents, 8, 8), "text": torch.randn(1, 1, 8),
        "audio": torch.randn(1, speakers, latents, 5, 24), "face_mask": masks}


# ---- against the official code


@pytest.mark.parametrize("exchanged", [False, True], ids=["", "masks exchanged"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_velocity_with_two_speakers_is_the_official_one(name: str, exchanged: bool) -> None:
    assert transformer_gap(name, exchanged=exchanged) <= BAR


def test_no_other_rule_and_no_other_masks_would_pass() -> None:
    said, source = recorded("multitalk_two")
    assert len(source["commit"]) == 40 and "MultiTalk" in source["repository"]
    assert gap(velocity("multitalk", "apart"), said["velocity"]) > 0.5
    assert gap(said["velocity, masks exchanged"], said["velocity"]) > 0.5


# ---- regions and places


def test_a_token_is_whose_mask_is_half_or_more_and_the_background_nobodys() -> None:
    masks = torch.tensor([[[0.2, 0.5, 0.9, 1.0, 0.0], [1.0, 0.0, 0.6, 0.49, 0.3]]])
    assert regions_of(masks)[0].T.tolist() == [[0, 1, 1, 1, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_a_face_smaller_than_a_token_has_a_region_and_an_empty_mask_has_none() -> None:
    assert regions_of(torch.tensor([[[0.0, 0.3, 0.1], [0.0, 0.0, 0.0]]]))[0].T.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("tokens", [16, 48], ids=["plain products", "fused kernel"])
def test_places_are_where_a_softmax_over_the_portrait_looks(tokens: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3 * tokens, 9, 8), torch.randn(2, 3 * tokens, 9, 8)
    regions = regions_of(torch.rand(2, 2, tokens))
    softmax = torch.einsum("blhe,bshe->bhls", q, k[:, :tokens]).div(8**0.5).softmax(-1)
    looks = torch.einsum("bhls,bsr->blr", softmax, regions) / 9 / regions.sum(1, keepdim=True)
    found = places(q, k, regions)
    assert torch.allclose(found, positions(looks), atol=1e-4) and found.unique().numel() > 10
    first, second, rest = (found <= 4), (found >= 20), (found == BACKGROUND)
    assert (first | second | rest).all() and first.any() and second.any() and rest.any()
    assert (found.bfloat16().float() - places(q.bfloat16(), k.bfloat16(), regions)).abs().median() < 0.2


def test_exchanged_masks_exchange_the_places() -> None:
    """Whoever stood near the first voice stands as near to the second; the background stays where it is."""
    torch.manual_seed(0)
    q, k, masks = torch.randn(1, 48, 2, 8), torch.randn(1, 48, 2, 8), torch.stack([LEFT, RIGHT])[None]
    before, after = places(q, k, regions_of(masks)), places(q, k, regions_of(masks.flip(1)))
    moved = torch.where(before == BACKGROUND, 0.0, torch.where(before < BACKGROUND, 20.0, -20.0))
    assert torch.allclose(after, before + moved, atol=1e-5) and moved.unique().numel() == 3


def test_a_picture_without_background_has_nobody_there() -> None:
    torch.manual_seed(0)
    found = places(torch.randn(1, 48, 2, 8), torch.randn(1, 48, 2, 8), regions_of(torch.stack([LEFT, 1 - LEFT])[None]))
    assert found.isfinite().all() and not (found == BACKGROUND).any()


# ---- hearing


def test_a_token_hears_the_voice_it_stands_near() -> None:
    """Keys that all are what is asked for: only the places tell the voices apart, and as well either way round."""
    width = 48
    q, key = torch.ones(1, 6, 1, width), torch.ones(1, 2, 1, 4, 1, width)
    value = torch.cat([torch.zeros(1, 1, 1, 4, 1, width), torch.ones(1, 1, 1, 4, 1, width)], 1)  # the share of the second voice
    at = torch.tensor([[STANDS[0], 0.0, 4.0, BACKGROUND, 20.0, STANDS[1]]])
    heard = attend_audio_together(q, AudioKV(key, value), at)[0, :, 0]
    assert (heard[:3] < 0.2).all() and abs(heard[3] - 0.5) < 1e-5 and (heard[4:] > 0.8).all()
    mirrored = attend_audio_together(q, AudioKV(key, value), sum(STANDS) - at)[0, :, 0]
    assert torch.allclose(mirrored, 1 - heard, atol=1e-5)


def test_padding_of_a_voice_is_not_heard() -> None:
    torch.manual_seed(0)
    q, at = torch.randn(1, 6, 2, 8), torch.full((1, 6), 2.0)
    key, value = torch.randn(1, 2, 3, 4, 2, 8), torch.randn(1, 2, 3, 4, 2, 8)
    valid = torch.ones(1, 2, 3, 4, dtype=torch.bool)
    valid[:, 1] = False
    alone = attend_audio_together(q, AudioKV(key[:, :1], value[:, :1]), at)
    assert torch.allclose(attend_audio_together(q, AudioKV(key, value, valid), at), alone, atol=1e-5)


def test_turns_are_relative() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 3, 8)
    near, far = (torch.einsum("lhe,lhe->lh", turned(a, torch.full((5,), x)), turned(b, torch.full((5,), x + 3))) for x in (1.0, 17.0))
    assert torch.allclose(near, far, atol=1e-4) and not torch.allclose(near, (a * b).sum(-1), atol=1e-2)


@torch.no_grad()
def test_apart_exchanged_masks_are_exchanged_voices() -> None:
    dit, data = random_dit(), inputs(2)
    masks = dit(sigma=SIGMA, **{**data, "face_mask": data["face_mask"].flip(1)})
    voices = dit(sigma=SIGMA, **{**data, "audio": data["audio"].flip(1)})
    assert torch.allclose(masks, voices, atol=1e-5) and (masks - dit(sigma=SIGMA, **data)).abs().max() > 1e-3


@torch.no_grad()
def test_together_both_voices_are_heard_everywhere() -> None:
    dit, data = random_dit(voices="together"), inputs(2)
    before = dit(sigma=SIGMA, **data)
    for i in range(2):
        other = data["audio"].clone()
        other[:, i] += 1
        assert ((dit(sigma=SIGMA, **{**data, "audio": other}) - before).abs().amax((0, 1)) > 0).all()


@torch.no_grad()
def test_all_else_is_the_same_to_the_bit() -> None:
    """One voice, three, no mask, and chunks: the option changes nothing; two voices of a whole sequence are heard otherwise."""
    apart, together = random_dit(), random_dit(voices="together")
    for speakers, changes in ((1, {}), (3, {}), (2, {"face_mask": None}), (2, {"chunk_latents": 1}), (2, {"audio": None})):
        data = {**inputs(speakers), **changes}
        assert torch.equal(apart(sigma=SIGMA, **data), together(sigma=SIGMA, **data)), (speakers, changes)
    data = inputs(2)
    assert (apart(sigma=SIGMA, **data) - together(sigma=SIGMA, **data)).abs().max() > 1e-3
    assert set(apart.state_dict()) == set(together.state_dict())


def test_the_option_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(InputError, match=r"voices.*MultiTalk's layers"):
        replace(SMALL, audio_kind="shared_q_kv", voices="together")
    dit = random_dit(voices="together")
    group = SimpleNamespace(share=lambda *_: None)
    with pytest.raises(InputError, match=r"voices.*no sequence parallelism"):
        dit(sigma=SIGMA, **inputs(2), sequence=group)


def test_a_configuration_written_before_is_read_as_apart() -> None:
    values = SMALL.to_dict()
    del values["voices"]
    assert DiTConfig.from_dict(values) == SMALL and SMALL.voices == "apart"
