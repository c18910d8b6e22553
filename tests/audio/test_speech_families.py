"""What each family of open checkpoints hears: recorded windows and loudness, streamed equals whole, honest look-ahead."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.seeded import fill, fill_state, sound
from tm_core.audio import speech_families
from tm_core.audio.loudness import integrated_loudness, normalise_loudness
from tm_core.audio.speech_families import SPEECH_FAMILIES, encode_speech, from_host, pieces, prepare_sound
from tm_core.audio.speech_windows import FrameWindows, TokenWindows
from tm_core.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config, build_wav2vec2, vectors_of
from tm_core.errors import InputError

Golden = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
FANTASY, MULTITALK = SPEECH_FAMILIES["fantasytalking"], SPEECH_FAMILIES["multitalk"]
RATES = [Fraction(16), Fraction(23), Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(60)]


# -- loudness -------------------------------------------------------------------------------------------------


def cases() -> dict[str, np.ndarray]:
    """The sounds of parity/recorders/speech.py."""
    speech = sound(64000)
    return {
        "speech": speech, "loud": speech * 8, "quiet": speech * 0.01, "below_the_gate": speech * 1e-4,
        "silence": np.zeros(32000, np.float32), "half_silent": np.concatenate([speech, np.zeros(48000, np.float32)]),
        "loud_then_soft": np.concatenate([speech * 5, speech * 0.1]), "odd_length": speech[:30011], "just_a_block": speech[:6400],
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
def test_loudness_is_pyloudnorms(golden: Golden, name: str) -> None:
    expected = float(golden("loudness")[0][name])
    made = integrated_loudness(cases()[name], 16000)
    assert made == expected or abs(made - expected) < 1e-3  # -inf equals itself; the rest in LUFS


def test_what_the_module_says_of_the_exact_filters(golden: Golden) -> None:
    recorded, source = golden("loudness")
    assert abs(float(recorded["speech"]) - source["speech_with_exact_filters"]) < 0.2


@pytest.mark.parametrize("name", ["speech", "loud", "half_silent"])  # louder, a very quiet sound's pauses pass the absolute gate too
def test_speech_is_brought_to_the_target(name: str) -> None:
    assert integrated_loudness(normalise_loudness(cases()[name], 16000, -23.0), 16000) == pytest.approx(-23, abs=0.02)


@pytest.mark.parametrize("samples", [np.zeros(16000, np.float32), sound(1000)], ids=["silence", "too short"])
def test_what_has_no_loudness_is_left_alone(samples: np.ndarray) -> None:
    assert integrated_loudness(samples, 16000) == -math.inf
    assert np.array_equal(normalise_loudness(samples, 16000, -23.0), samples)


# -- FantasyTalking's windows ------------------------------------------------------------------------------------


def test_token_ranges_are_the_official_ones(golden: Golden) -> None:
    recorded = {name: ranges for name, ranges in golden("fantasytalking")[0].items() if name.startswith("ranges_")}
    assert len(recorded) > 15
    for name, ranges in recorded.items():
        num_tokens, num_frames = map(int, name.split("_")[1:])
        rule = TokenWindows.of_clip(num_tokens, num_frames)
        made = [(rule.tokens(i).start + rule.margin, rule.tokens(i).stop - 1 - rule.margin) for i in range(len(ranges))]
        assert made == [tuple(r) for r in ranges.tolist()], name


def test_token_windows_are_the_official_ones(golden: Golden) -> None:
    recorded, source = golden("fantasytalking")
    tokens, frames = recorded["tokens"], source["frames"]
    made = TokenWindows.of_clip(len(tokens), frames).windows(tokens, range((frames - 1) // 4 + 1))
    assert torch.equal(made.tokens, recorded["windows"])
    assert torch.equal(made.lengths, recorded["lengths"])


def test_a_training_clip_has_17_tokens_a_latent() -> None:
    rule = FANTASY.windows(num_tokens=vectors_of(int(81 / 23 * 16000)), num_frames=81)
    assert isinstance(rule, TokenWindows)
    assert rule.size == 17
    assert rule.lookahead_frames == 2
    live = FANTASY.windows()
    assert isinstance(live, TokenWindows)
    assert live.size == 17


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_streamed_tokens_equal_whole(fps: Fraction, chunk: int) -> None:
    rule, tokens = TokenWindows(tokens_per_frame=float(50 / fps)), fill("tokens", (300, 4))
    whole = rule.windows(tokens, range(30))
    for start in range(0, 30, chunk):
        latents = range(start, min(start + chunk, 30))
        part = rule.windows(tokens[: rule.needed(latents)], latents)  # only what a live stream has by then
        assert torch.equal(part.tokens, whole.tokens[latents.start : latents.stop])
        assert torch.equal(part.lengths, whole.lengths[latents.start : latents.stop])


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("latent", [0, 1, 7, 29])
def test_tokens_beyond_the_look_ahead_change_nothing(fps: Fraction, latent: int) -> None:
    rule, tokens = TokenWindows(tokens_per_frame=float(50 / fps)), fill("tokens", (600, 4))
    own, needed = rule.windows(tokens, range(latent, latent + 1)), rule.needed(range(latent, latent + 1))
    known = math.ceil((4 * latent + 1 + rule.lookahead_frames) * rule.tokens_per_frame)
    assert needed <= known
    for first, same in ((known, True), (needed, True), (needed - 1, False)):
        other = tokens.clone()
        other[first:] += 1
        assert torch.equal(rule.windows(other, range(latent, latent + 1)).tokens, own.tokens) is same


def test_tokens_outside_the_sound_are_zero_and_not_counted() -> None:
    rule, tokens = TokenWindows(tokens_per_frame=50 / 23), fill("tokens", (40, 4)) + 10
    made = rule.windows(tokens, range(12))
    assert made.lengths[0] < rule.size
    assert made.lengths[-1] == 0
    for window, length in zip(made.tokens, made.lengths, strict=True):
        assert (window[:length] > 0).all()
        assert not window[length:].any()


# -- MultiTalk's windows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0, 1])
def test_frame_windows_are_the_official_ones(golden: Golden, clip: int) -> None:
    recorded, source = golden("multitalk")
    count, start, frames = source["clips"][clip]
    first_latent = start // 4
    features = fill("features", (count, *source["feature"]))
    made = FrameWindows().windows(features, range(first_latent, first_latent + (frames - 1) // 4 + 1), clip_start=first_latent)
    assert torch.equal(made.first, recorded[f"clip{clip}_first"])
    assert torch.equal(made.later, recorded[f"clip{clip}_later"])


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("clip_start", [0, 7])
def test_streamed_frames_equal_whole(chunk: int, clip_start: int) -> None:
    rule, features = FrameWindows(), fill("features", (130, 2, 3))
    whole = rule.windows(features, range(clip_start, 30), clip_start=clip_start)
    parts = []
    for start in range(clip_start, 30, chunk):
        latents = range(start, min(start + chunk, 30))
        parts.append(rule.windows(features[: rule.needed(latents)], latents, clip_start=clip_start))
    assert torch.equal(torch.cat([p.first for p in parts]), whole.first)
    assert torch.equal(torch.cat([p.later for p in parts]), whole.later)


@pytest.mark.parametrize("latent", [0, 1, 7])
def test_frames_beyond_the_look_ahead_change_nothing(latent: int) -> None:
    rule, features = FrameWindows(), fill("features", (60, 2, 3))

    def window(of: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in rule.windows(of, range(latent, latent + 1))])

    known = 4 * latent + 1 + rule.lookahead_frames
    assert rule.needed(range(latent, latent + 1)) == known
    for first, same in ((known, True), (known - 1, False)):
        other = features.clone()
        other[first:] += 1
        assert torch.equal(window(other), window(features)) is same


def test_latents_before_the_clip_are_refused() -> None:
    with pytest.raises(InputError, match="begins at latent 3"):
        FrameWindows().windows(fill("features", (60, 2, 3)), range(2, 4), clip_start=3)


@pytest.mark.parametrize("rule", [FrameWindows(), TokenWindows(tokens_per_frame=2)])
def test_a_sound_without_features_is_refused(rule: Any) -> None:
    with pytest.raises(InputError, match="no features"):
        rule.windows(torch.zeros(0, 2, 3), range(2))


# -- families ------------------------------------------------------------------------------------------------------


SMALL = Wav2Vec2Config(width=64, heads=1, layers=12, feed_forward=64, conv_channels=8)


@pytest.fixture(scope="module")
def encoder() -> Wav2Vec2:
    model = Wav2Vec2(SMALL).eval()
    model.load_state_dict(fill_state({name: tuple(v.shape) for name, v in model.state_dict().items()}))
    return model


def test_preparation_of_each_family() -> None:
    quiet = sound(32000, level=0.02)
    prepared = {name: prepare_sound(quiet, family) for name, family in SPEECH_FAMILIES.items()}
    assert abs(prepared["fantasytalking"].mean()) < 1e-5
    assert prepared["fantasytalking"].std() == pytest.approx(1, abs=1e-3)
    for name in ("multitalk", "infinitetalk", "flashtalk"):
        assert integrated_loudness(prepared[name], 16000) == pytest.approx(-23, abs=0.02)
    assert np.allclose(prepared["liveact"], quiet * 3)


@pytest.mark.parametrize(("name", "shape"), [("fantasytalking", (74, 64)), ("multitalk", (37, 12, 64)), ("liveact", (36, 12, 64))])
def test_features_have_the_familys_shape_and_rate(encoder: Wav2Vec2, name: str, shape: tuple[int, ...]) -> None:
    assert encode_speech(encoder, sound(24000), SPEECH_FAMILIES[name]).shape == shape  # 1.5 s


def test_from_sound_to_features_as_the_official_function_does(golden: Golden) -> None:
    recorded, source = golden("wav2vec2")
    model = build_wav2vec2(fill_state({name: tuple(shape) for name, shape in source["shapes"].items()}))
    made = encode_speech(model, sound(source["samples"]), replace(MULTITALK, loudness_lufs=None))
    assert (made - recorded["features"]).abs().max() <= 1e-4


def test_stereo_is_refused() -> None:
    with pytest.raises(InputError, match="one mono sound"):
        prepare_sound(np.zeros((2, 16000), np.float32), MULTITALK)


def host_output(tokens: int = 49, layers: int = 13, width: int = 768, samples: int | None = 16000, batch: int = 1) -> dict[str, Any]:
    """What AudioEncoderEncode returns."""
    states = tuple(fill(f"layer{i}", (batch, tokens, width)) for i in range(layers))
    return {"encoded_audio": states[-1], "encoded_audio_all_layers": states, "audio_samples": samples}


def test_the_hosts_output_serves_fantasytalking_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    output = host_output()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(from_host(output, FANTASY), output["encoded_audio"][0])
    assert "does not normalise the sound" in caplog.text
    assert "wav2vec2-base-960h" in caplog.text


def test_the_hosts_output_serves_multitalk_only_when_asked() -> None:
    with pytest.raises(InputError, match="before the transformer"):
        from_host(host_output(), MULTITALK)
    made = from_host(host_output(), MULTITALK, approximate=True)
    assert made.shape == (25, 12, 768)
    assert torch.equal(made[0, 0], host_output()["encoded_audio_all_layers"][1][0, 0])


@pytest.mark.parametrize(("output", "words"), [
    ({}, "no encoded_audio_all_layers"),
    (host_output(layers=25, width=1024), "25 layers 1024 wide"),
    (host_output(layers=33, width=1280, samples=None), "needs 13 layers 768 wide"),
    (host_output(tokens=25), "25 tokens of 16000 samples"),
    (host_output(batch=2), "one mono sound"),
], ids=["empty", "large", "whisper", "other rate", "batch"])  # fmt: skip
def test_what_cannot_be_right_is_refused(output: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_host(output, FANTASY)


@pytest.mark.parametrize("name", ["infinitetalk", "liveact", "fantasytalking"])
@pytest.mark.parametrize("seconds", [60.02, 95.0, 121.37, 180.0])
def test_a_long_sound_is_as_many_features_as_the_whole(name: str, seconds: float) -> None:
    """Every feature once; each piece makes as many as it says; context on both sides but for the ends."""
    family, n = SPEECH_FAMILIES[name], round(seconds * 16000)
    made = pieces(n, family)
    total = family.frames_of(n) if family.per_frame else vectors_of(n)
    assert sum(p.kept.stop - p.kept.start for p in made) == total and made[0].samples.start == 0 and made[-1].samples.stop == n
    for piece in made:
        length = piece.samples.stop - piece.samples.start
        assert piece.samples.stop <= n and piece.kept.stop <= piece.rows
        assert piece.rows == vectors_of(length) if not family.per_frame else abs(piece.rows - length / 16000 * float(family.fps)) < 1.01
    assert all(p.kept.start >= 115 for p in made[1:])


def test_pieces_are_the_sound_at_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of two seconds: what is kept of the second is what that stretch, with its context, gives on its own."""
    encoder = Wav2Vec2(Wav2Vec2Config(
        width=64, heads=1, layers=2, feed_forward=64, conv_channels=16, position_kernel=8, position_groups=4)).eval()
    family = replace(SPEECH_FAMILIES["infinitetalk"], loudness_lufs=None, layers=2, width=64)
    samples = np.random.default_rng(0).normal(0, 0.1, 6 * 16000).astype(np.float32)
    whole = encode_speech(encoder, samples, family)
    stretch = encode_speech(encoder, samples[25600:70400], family)  # 1.6 to 4.4 s
    monkeypatch.setattr(speech_families, "AT_ONCE_S", 2.0)
    monkeypatch.setattr(speech_families, "CONTEXT_S", 0.4)
    made = encode_speech(encoder, samples, family)
    assert made.shape == whole.shape == (150, 2, 64) and made.dtype == torch.float16
    assert torch.equal(made[50:100], stretch[10:60].half()) and not torch.equal(made[:50], made[50:100])
