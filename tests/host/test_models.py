"""Open checkpoints as the host's MODEL: its KSampler, LoRA, fp8, shift, interrupt and unloading work on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _loading
from benchmarks.parity import BAR, compare_with_host

EXACT = BAR  # of the latents' spread
FAMILIES = ("fantasytalking", "infinitetalk", "liveact")


@pytest.fixture(scope="module")
def found(host_installation: Any) -> dict[str, Any]:
    """One process of the host's Python measures everything."""
    return compare_with_host(host_installation.path, host_installation.python, "_host_models.py")


def test_ksampler_paints_what_it_paints_with_the_hosts_own_wan(found: dict[str, Any]) -> None:
    assert found["native KSampler, host's own Wan"] <= EXACT


def test_a_lora_changes_as_it_does_on_the_hosts_own_wan_and_leaves_nothing(found: dict[str, Any]) -> None:
    assert found["LoRA changes"] > 0.05 and found["LoRA, host's own Wan"] <= EXACT and found["LoRA removed"] == 0


def test_fp8_files_load_as_on_the_hosts_own_wan(found: dict[str, Any]) -> None:
    assert found["scaled fp8 file, host's own Wan"] <= EXACT
    assert 0 < found["scaled fp8 file"] < 0.5 and 0 < found["fp8 weights"] < 0.5


def test_the_shift_node_shifts(found: dict[str, Any]) -> None:
    assert found["shift changes"] > 0.05 and found["family's shift"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_reaches_ksampler_and_only_the_face(found: dict[str, Any], family: str) -> None:
    assert found[f"{family}: sound changes"] > 0.05
    assert found[f"{family}: silent"] == 0 and found[f"{family}: zero mask"] == 0


def test_torch_compile_model_traces_the_same_model(found: dict[str, Any]) -> None:
    """With the backend that only traces: what inductor makes of it takes minutes on a CPU."""
    assert found["TorchCompileModel, not compiled"] <= EXACT


def test_models_live_side_by_side_stop_and_leave(found: dict[str, Any]) -> None:
    assert found["two models, first again"] == 0 and found["interrupted"]
    assert found["freed"] < 30  # MB that twenty models leave behind


def test_loading_holds_no_second_copy(host_installation: Any, tmp_path: Path) -> None:
    """The rule of `bench memory --part loading` at 0.7 GB: the files and one part of them; the host's own loader takes both copies."""
    files = [_loading.write(tmp_path / f"{i}.safetensors", shapes, torch.bfloat16, i) for i, shapes in enumerate(_loading.shapes_of(0.7))]
    size, script = sum(f.stat().st_size for f in files), _loading.ROOT / "benchmarks" / "_host_loading.py"
    host = host_installation.path, _loading.ROOT
    found = _loading.child(script, *host, "pack", "bf16", *files, python=host_installation.python)
    theirs = _loading.child(script, *host, "host", "bf16", files[0], python=host_installation.python)
    assert size > 0.5e9 and 0.9 * size < found["peak"] < 1.6 * size
    assert theirs["peak"] > 1.8 * files[0].stat().st_size
