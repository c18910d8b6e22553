"""The size of a cache is known before it is allocated, and a run that cannot fit says what would."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.streaming.test_compressed_sampler import CFG, HISTORY, small
from tests.streaming.test_compressed_sampler import scene as compressed_scene
from tests.streaming.test_sampler import CONFIG, features, random_model, scene
from tm_core.config import CacheMode, ClipConfig, Guidance, HistoryConfig, ModelConfig, SamplerConfig, wan_i2v_14b
from tm_core.errors import InputError
from tm_core.streaming.cache_size import GIB, cache_size, check_fits
from tm_core.streaming.compressed_sampler import CompressedSampler
from tm_core.streaming.sampler import ChunkedSampler

WAN = wan_i2v_14b().dit
TWO = SamplerConfig(sigmas=(1.0, 0.75))


@pytest.mark.parametrize("mode", ["per_step", "clean_rerun"])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(text=5.0, audio=4.0)], ids=["plain", "guided"])
def test_the_prediction_is_what_is_allocated(mode: CacheMode, guidance: Guidance) -> None:
    sampler = replace(CONFIG.sampler, cache_mode=mode, guidance=guidance)
    state = ChunkedSampler(random_model(CONFIG), sampler).open(scene(features()), 0)
    predicted = cache_size(CONFIG.dit, sampler, (8, 8), torch.float32)
    context = [t for c in state.conditions.values() for block in c.context for t in block if t is not None]
    assert predicted.chunks == state.cache_bytes
    assert predicted.context == sum(t.numel() * t.element_size() for t in context)


@pytest.mark.parametrize(("guidance", "caches"), [(Guidance(), 2), (Guidance(audio=3.0), 3), (Guidance(text=5.0, audio=4.0), 5)], ids=str)
def test_a_compressed_history_is_predicted_as_well(guidance: Guidance, caches: int) -> None:
    """Steps that do not hear keep none for silence: of two steps, one does."""
    sampler = SamplerConfig(sigmas=(1.0, 0.6), history=HISTORY, guidance=guidance)
    state = CompressedSampler(small(), sampler).open(compressed_scene(), 0)
    predicted = cache_size(CFG, sampler, (4, 6), torch.float32)
    context = [t for c in state.conditions.values() for block in c.context for t in block if t is not None]
    assert predicted.chunks == state.cache_bytes == caches * HISTORY.slots * 6 * 2 * CFG.num_layers * CFG.dim * 4
    assert predicted.context == sum(t.numel() * t.element_size() for t in context)


def sized(width: int, height: int) -> ModelConfig:
    """Wan's 14B model with sound, at this size."""
    return replace(wan_i2v_14b(), dit=WAN, width=width, height=height)


def test_liveact_at_480p_keeps_fifty_gib() -> None:
    """Its own buffers: three steps of 14 latents, 1560 tokens each, of 40 layers of 40 heads of 128, keys and values."""
    sampler = SamplerConfig(sigmas=(1.0, 0.9375, 0.8333), history=HistoryConfig())
    assert cache_size(WAN, sampler, (60, 104), torch.bfloat16).chunks == 3 * 40 * 2 * (1560 * 14 * 40 * 128 * 2)
    with pytest.raises(InputError, match=r"use \d+ x \d+ or less"):
        check_fits(sized(832, 480), sampler, torch.bfloat16, 40 * GIB)


def test_the_14b_model_at_512_keeps_ten_gib() -> None:
    """reference/checkpoints.md section 2: 0.82 MB a token, 2.5 GB a chunk, 10 GB at two steps, 0.63 GB of text and picture."""
    size = cache_size(WAN, TWO, (64, 64), torch.bfloat16)
    assert size.chunks == pytest.approx(10e9, rel=0.01) and size.context == pytest.approx(0.63e9, rel=0.01)


def test_clips_keep_nothing() -> None:
    assert cache_size(WAN, replace(TWO, clip=ClipConfig()), (64, 64), torch.bfloat16).total == 0


def test_what_does_not_fit_says_what_would() -> None:
    assert check_fits(sized(512, 512), TWO, torch.bfloat16, 12 * GIB).total < 12 * GIB
    with pytest.raises(InputError, match="clean_rerun"):
        check_fits(sized(512, 512), TWO, torch.bfloat16, 8 * GIB)
    with pytest.raises(InputError, match=r"use \d+ x \d+ or less") as caught:
        check_fits(sized(832, 480), TWO, torch.bfloat16, 3 * GIB)
    found = re.search(r"use (\d+) x (\d+)", str(caught.value))
    assert found is not None
    width, height = int(found[1]), int(found[2])
    assert check_fits(sized(width, height), TWO, torch.bfloat16, 3 * GIB).total > 2 * GIB and width > height
    with pytest.raises(InputError, match="not even the smallest"):
        check_fits(sized(512, 512), TWO, torch.bfloat16, 2**20)
