"""Open checkpoints as the host's MODEL: its KSampler, LoRA, fp8, shift, interrupt and unloading work on them."""

from __future__ import annotations

from typing import Any

import pytest

from parity.golden import BAR
from parity.host import compare_with_host

EXACT = BAR  # of the latents' spread
FAMILIES = ("fantasytalking", "infinitetalk", "liveact")


@pytest.fixture(scope="module")
def found(host_installation: Any) -> dict[str, Any]:
    """One process of the host's Python measures everything."""
    return compare_with_host(host_installation, "host_models.py")


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
    assert found["TorchCompileModel, not compiled"] <= EXACT and found["TorchCompileModel, a kernel by name, not compiled"] <= EXACT


def test_attention_is_the_kernel_that_the_user_has_chosen(found: dict[str, Any]) -> None:
    """Here split attention, by the host's flag; on a CPU without a flag our own, which is what it was before."""
    (unchosen, same), (chosen, near) = found["kernels"]
    assert (unchosen, same) == (0, 0) and chosen > 0 and near <= EXACT


def test_a_streams_state_goes_when_the_host_unloads_its_models(found: dict[str, Any]) -> None:
    assert found["states"] == [True, False, True, False]


def test_models_live_side_by_side_stop_and_leave(found: dict[str, Any]) -> None:
    assert found["two models, first again"] == 0 and found["interrupted"]
    assert found["freed"] < 30  # MB that seven models leave behind; one has 23
