"""Our transformer and speech encoder are the host's: same weights, same state-dict names, same numbers."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.parity import BAR, compare_with_host


@pytest.fixture(scope="module")
def found(host_installation: Any) -> dict[str, Any]:
    """One process of the host's Python compares all variants."""
    return compare_with_host(host_installation.path, host_installation.python)


@pytest.mark.parametrize(
    "variant",
    ["i2v", "i2v, the host's operations", "i2v, casting operations", "no image", "i2v with audio layers, no sound"],
)
def test_the_velocity_is_the_hosts(found: dict[str, Any], variant: str) -> None:
    compared = found["compared"][variant]
    assert compared["difference"] <= BAR
    assert compared["rms"] > 0.5  # something is compared: neither output is near zero


def test_the_audio_layers_are_the_only_new_names(found: dict[str, Any]) -> None:
    assert found["only_audio_keys_are_new"]
    assert found["keys"] > 100


@pytest.mark.parametrize(
    "variant", ["reduced", "reduced, normalised, casting operations", "base", "base, the host's loader and encode node"],
)
def test_the_speech_encoder_is_the_hosts(found: dict[str, Any], variant: str) -> None:
    compared = found["wav2vec2"][variant]
    assert compared["difference"] <= BAR
    assert compared["rms"] > 0.5
