"""wav2vec2: the published networks' numbers, whatever their tensors are called, for short sounds and long ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.seeded import fill_state, sound
from tm_core.audio import wav2vec2
from tm_core.audio.speech_families import normalise_sound
from tm_core.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config, build_wav2vec2, config_of, encoder_weights, vectors_of
from tm_core.errors import InputError

BAR = 1e-4
Golden = tuple[dict[str, Tensor], dict[str, Any]]
SMALL = Wav2Vec2Config(width=64, heads=1, layers=2, feed_forward=96, conv_channels=16)


@pytest.fixture(scope="module")
def recorded(golden: Callable[[str], Golden]) -> Golden:
    return golden("wav2vec2")


@pytest.fixture(scope="module")
def published(recorded: Golden) -> dict[str, Tensor]:
    """A state dict under Hugging Face's names, weights by the rule of parity/seeded.py."""
    return fill_state({name: tuple(shape) for name, shape in recorded[1]["shapes"].items()})


@pytest.fixture(scope="module")
def samples(recorded: Golden) -> Tensor:
    return torch.from_numpy(sound(recorded[1]["samples"]))[None]


def test_hidden_states_are_hugging_faces(recorded: Golden, published: dict[str, Tensor], samples: Tensor) -> None:
    made = torch.cat(build_wav2vec2(published)(samples))
    assert made.shape == recorded[0]["states"].shape
    assert (made - recorded[0]["states"]).abs().max() <= BAR
    assert recorded[0]["states"].std() > 0.5  # something is compared


def test_stretched_before_the_transformer_as_multitalk_does(recorded: Golden, published: dict[str, Tensor], samples: Tensor) -> None:
    before = torch.cat(build_wav2vec2(published)(samples, frames=recorded[1]["frames"]))
    assert (before - recorded[0]["stretched"]).abs().max() <= BAR
    after = wav2vec2.resample_vectors(torch.cat(build_wav2vec2(published)(samples)), recorded[1]["frames"])
    assert (after - recorded[0]["stretched"]).abs().max() > 0.1  # the order matters


def test_normalisation_is_hugging_faces(recorded: Golden) -> None:
    made = torch.from_numpy(normalise_sound(sound(recorded[1]["samples"])))[::8]
    assert (made - recorded[0]["normalised_every_8th"]).abs().max() <= 1e-5


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize("old_spelling", [False, True], ids=["parametrizations", "weight_g"])
def test_every_spelling_of_the_names_loads(published: dict[str, Tensor], prefix: str, old_spelling: bool) -> None:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"} if old_spelling else {}
    state = dict(published)
    for new, old in names.items():
        state[wav2vec2.POSITIONS + old] = state.pop(wav2vec2.POSITIONS + new)
    state |= {"lm_head.weight": torch.zeros(1)} if prefix else {"quantizer.codevectors": torch.zeros(1), "project_q.bias": torch.zeros(1)}
    named = {name if name.split(".")[0] in {"lm_head", "quantizer", "project_q"} else prefix + name: v for name, v in state.items()}
    expected, made = encoder_weights(published), encoder_weights(named)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


def test_half_precision_files_load(published: dict[str, Tensor], samples: Tensor) -> None:
    full, half = build_wav2vec2(published), build_wav2vec2({name: v.half() for name, v in published.items()})
    assert half.encoder.layer_norm.weight.dtype == torch.float32
    assert (half(samples)[-1] - full(samples)[-1]).abs().max() < 0.05


def test_sizes_are_read_from_the_tensors(published: dict[str, Tensor]) -> None:
    assert config_of(encoder_weights(published)) == Wav2Vec2Config(width=128, heads=2, layers=3, feed_forward=256, conv_channels=32)


@pytest.mark.parametrize(("change", "words"), [
    ({"feature_extractor.conv_layers.1.layer_norm.weight": torch.ones(32)}, "large layout"),
    ({"encoder.layers.1.attention.q_proj.bias": None}, "missing encoder.layers.1.attention.q_proj.bias"),
    ({"encoder.pos_conv_embed.conv.bias": None, "surprise": torch.ones(1)}, "unknown surprise"),
    ({"feature_projection.projection.weight": None}, "no feature_projection.projection.weight"),
], ids=["large", "missing", "surplus", "no encoder"])  # fmt: skip
def test_other_files_are_refused_by_name(published: dict[str, Tensor], change: dict[str, Tensor | None], words: str) -> None:
    state = {name: v for name, v in {**published, **change}.items() if v is not None}
    with pytest.raises(InputError, match=words):
        build_wav2vec2(state)


def test_true_shapes_and_parameter_count(recorded: Golden) -> None:
    model = Wav2Vec2(device="meta")
    # the published count less the vector for masked sound and the magnitudes folded into the positional weight
    assert sum(p.numel() for p in model.parameters()) == recorded[1]["parameters_of_base"] - 768 - 128 == 94_370_816
    assert config_of(model.state_dict()) == Wav2Vec2Config()


def test_one_vector_every_20_ms() -> None:
    assert [vectors_of(n) for n in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]
    assert vectors_of(int(81 / 23 * 16000)) == 175


def test_a_sound_too_short_says_so() -> None:
    with pytest.raises(InputError, match="at least 400"):
        Wav2Vec2(SMALL)(torch.zeros(1, 399))


@pytest.mark.parametrize("count", [16_000, 16_123])
def test_long_sounds_pass_in_blocks_with_the_same_numbers(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Wav2Vec2(SMALL).eval()
    model.load_state_dict(fill_state({k: tuple(v.shape) for k, v in model.state_dict().items()}))
    samples = torch.from_numpy(np.stack([sound(count), sound(count, level=0.01)[::-1].copy()]))
    with torch.inference_mode():
        whole = model(samples)
        monkeypatch.setattr(wav2vec2, "BLOCK_VECTORS", 7)
        blocks = model(samples)
    assert max(float((a - b).abs().max()) for a, b in zip(whole, blocks, strict=True)) <= BAR


def test_a_gain_cancels_in_the_group_norm_unless_the_sound_is_quiet() -> None:
    """What families.py says of normalisation."""
    model = Wav2Vec2(SMALL).eval()
    model.load_state_dict(fill_state({k: tuple(v.shape) for k, v in model.state_dict().items()}))
    loud = torch.from_numpy(sound(16000))[None]
    with torch.inference_mode():
        change = [float((model(loud * gain)[-1] - model(loud)[-1]).abs().mean()) for gain in (3.0, 0.003)]
    assert change[0] < 0.02
    assert change[1] > 5 * change[0]
