"""`bench gpu`: the path of the large shapes at reduced size on the CPU, its arithmetic against torch's own counter, honest rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _large, gpu
from benchmarks._large import Case
from tm_core.config import AudioConfig, AudioKind, AudioProjectorConfig, SamplerConfig, paper_18b
from tm_core.errors import InputError
from tm_core.streaming.memory import cache_size
from tm_core.streaming.sampler import ChunkedSampler
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE

VAES = {"Wan VAE": lambda **make: WanVAE(8, **make), "TAEHV": TAEHV}


def small(kind: AudioKind) -> Case:
    """The shape with everything narrow."""
    full = next(c for c in _large.cases() if c.config.dit.audio_kind == kind)
    dit = replace(full.config.dit, dim=128, ffn_dim=192, num_heads=2, num_layers=2, text_len=48, text_dim=64, image_dim=64, audio_dim=64)
    projector = AudioProjectorConfig(n_mels=8, width=16, dim=64, tokens=16) if kind == "shared_q_kv" else None
    config = replace(full.config, width=32, height=32, dit=dit, projector=projector, audio=AudioConfig(n_mels=8))
    return Case(config=config, audio_tokens=full.audio_tokens, hidden=16)


@pytest.mark.parametrize("kind", ["own_q_kv_proj", "shared_q_kv"])
def test_the_whole_path_runs_at_reduced_size(kind: AudioKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_large, "WARM", 1)
    rows = _large.rows("cpu", [small(kind)], chunks=2, vaes=VAES)
    found = {str(r["what"]): r for r in rows}
    name = small(kind).config.name
    for precision in ("bf16", "fp8 cast to bf16"):
        assert float(found[f"{name}, {precision}: denoising 3 latents, 2 steps, 32 x 32"]["value"]) > 0  # type: ignore[arg-type]
        for vae in VAES:
            between = found[f"{name}, {precision}, {vae}: time between chunks, both at once, p50"]
            assert between["bar"] == ("<= 480 (25 fps)" if kind == "own_q_kv_proj" else "<= 750 (16 fps)") and between["ok"] is not None
    assert any(f"{name}, fp8 _scaled_mm" in what for what in found), "measured, or a row that says why not"


@pytest.mark.parametrize("kind", ["own_q_kv_proj", "shared_q_kv"])
def test_arithmetic_is_what_torch_counts(kind: AudioKind) -> None:
    case = small(kind)
    model, scene = _large.build(case, "cpu", "bf16"), _large.scene_of(case, "cpu")
    sampler = ChunkedSampler(model, SamplerConfig(sigmas=_large.SIGMAS))
    state = sampler.open(scene, 0)
    for _ in range(3):
        _, state = sampler.step(state)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:  # the counter does not know the CPU's fused attention
        sampler.step(state)
    with FlopCounterMode(display=False) as projecting:
        like = torch.empty(0, dtype=torch.bfloat16)
        model.projector.listen(scene.speakers[0].windows(range(9, 12)), torch.ones(3), like)  # type: ignore[union-attr]
    counted, cfg = whole.get_total_flops() - projecting.get_total_flops(), case.config.dit
    assert counted == 2 * _large.chunk_flops(cfg, 4, case.audio_tokens) + _large.sound_flops(cfg, case.audio_tokens)


def test_fp8_layers_are_near_the_ones_they_stand_for() -> None:
    torch.manual_seed(0)
    layer = _large.Fp8Linear(64, 32, dtype=torch.bfloat16)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    exact = x.float() @ layer.weight.float().t()
    assert layer.weight.element_size() == 1 and (layer(x).float() - exact).abs().max() < 0.05


def test_without_a_gpu_a_row_says_so() -> None:
    rows = _large.rows("cpu")
    assert len(rows) == 1 and "no CUDA device" in str(rows[0]["value"])
    assert gpu.run(device="cpu", part=["large"])[1:] == rows


def test_what_is_needed_is_more_than_what_is_kept() -> None:
    for case in _large.cases():
        kept = cache_size(case.config.dit, SamplerConfig(sigmas=_large.SIGMAS), 512, 512, torch.bfloat16).total
        small_, large = (_large.needed_bytes(case, p) for p in ("fp8 cast to bf16", "bf16"))
        assert 16e9 < large - small_ < 19e9 and small_ > kept + 16e9


def test_arithmetic_of_the_large_shapes() -> None:
    """Twice the 14B's parameters that see every token, times tokens and steps, is a floor; attention adds less than as much again."""
    case: Any = next(c for c in _large.cases() if c.config.name == paper_18b().name)
    floor = 2 * 40 * (12 * 5120**2 / 2 + 2 * 5120 * 13824) * 3 * 1024
    assert floor < _large.chunk_flops(case.config.dit, 1024, 16) < 2 * floor


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="tiny, training, large"):
        gpu.run(device="cpu", part=["weather"])
