"""Our transformer, speech encoder and video autoencoder are the host's: same weights, same state-dict names, same numbers."""

from __future__ import annotations

from typing import Any

import pytest

from parity.golden import BAR
from parity.host import compare_with_host


@pytest.fixture(scope="module")
def found(host_installation: Any) -> dict[str, Any]:
    """One process of the host's Python compares all variants."""
    return compare_with_host(host_installation)


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


@pytest.mark.parametrize("frames", ["1 frames", "9 frames", "17 frames", "9 frames, casting operations"])
@pytest.mark.parametrize("what", ["decode", "encode"])
def test_the_autoencoder_is_the_hosts(found: dict[str, Any], what: str, frames: str) -> None:
    compared = found["vae"]["compared"][f"{what}, {frames}"]
    assert compared["difference"] <= BAR
    assert compared["spread"] > 0.05  # pictures and latents, not one grey


@pytest.mark.parametrize("what", ["decode", "encode"])
def test_the_tiny_autoencoder_is_the_hosts(found: dict[str, Any], what: str) -> None:
    compared = found["vae"]["tiny"][f"{what}, 17 frames"]
    assert compared["difference"] <= BAR
    assert compared["spread"] > 0.05


def test_the_real_autoencoder_has_the_hosts_names_and_sizes(found: dict[str, Any]) -> None:
    true = found["vae"]["true"]
    assert true["same"]
    assert true["ours"] == true["parameters"] == 126_892_531  # of wan_2.1_vae.safetensors
    assert true["tensors"] == 194
