"""The host's AUDIO_ENCODER, CONDITIONING and CLIP_VISION as what the engine takes: features of sounds, prompts, tokens of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ops
from torch import Tensor

from ...tm_core.audio.speech_families import SPEECH_FAMILIES, SpeechFamily, encode_speech, from_host
from ...tm_core.audio.wav2vec2 import Wav2Vec2, build_wav2vec2
from ...tm_core.errors import InputError
from ...tm_core.families.registry import FAMILIES


def speech_of(family: str) -> SpeechFamily:
    """How a family hears; InputError for one that does not."""
    speech = FAMILIES[family].speech
    if speech is None:
        raise InputError("audio", FAMILIES[family].title, "does not hear", f"load an adapter that does: {', '.join(SPEECH_FAMILIES)}")
    return speech


def speech_features(audio_encoder: Any, samples: Any, family: SpeechFamily) -> Tensor:
    """Features of a sound (n,) at 16 kHz by a host AUDIO_ENCODER's weights, prepared and stretched as the family was trained.

    The weights stay where the host keeps them; each layer is brought to the device while it computes.
    """
    return encode_speech(speech_encoder(audio_encoder), samples, family, device=audio_encoder.load_device).cpu()


def speech_encoder(audio_encoder: Any) -> Wav2Vec2:
    """A host AUDIO_ENCODER's weights in our encoder; InputError for one that is no wav2vec2 of the families'."""
    network = getattr(audio_encoder, "model", None)
    if network is None:
        raise InputError("audio_encoder", type(audio_encoder).__name__, "is no audio encoder", "connect AudioEncoderLoader")
    return build_wav2vec2(network.state_dict(), operations=comfy.ops.manual_cast, dtype=audio_encoder.dtype)


def features_of_output(output: Mapping[str, Any], family: SpeechFamily, *, approximate: bool) -> Tensor:
    """Features out of a host AUDIO_ENCODER_OUTPUT; InputError where they cannot be right for the family."""
    return from_host(output, family, approximate=approximate).float().cpu()


def prompt_of(conditioning: Any, field: str) -> Tensor | None:
    """The text (1, L, D) of a CONDITIONING; InputError for a mixture of several."""
    if conditioning is None:
        return None
    if len(conditioning) != 1:
        raise InputError(field, f"{len(conditioning)} prompts", "one prompt leads a stream", "connect CLIP Text Encode alone")
    text: Tensor = conditioning[0][0]
    return text[:1]


def vision_tokens(clip_vision: Any, picture: Tensor) -> Tensor | None:
    """CLIP tokens of a picture (1, H, W, 3) in 0..1 by a host CLIP_VISION, cut as the host's CLIPVisionEncode does at `center`."""
    return picture_tokens(clip_vision.encode_image(picture, crop=True))


def vision_weights(clip_vision: Any) -> dict[str, Tensor]:
    """The weights of a host CLIP_VISION; InputError for what is none."""
    if not callable(getattr(clip_vision, "encode_image", None)):
        raise InputError("clip_vision", type(clip_vision).__name__, "is no CLIP vision model", "connect Load CLIP Vision")
    weights: dict[str, Tensor] = clip_vision.model.state_dict()
    return weights


def picture_tokens(output: Any) -> Tensor | None:
    """CLIP tokens (1, 257, 1280) of a CLIP_VISION_OUTPUT, those Wan was trained with."""
    if output is None:
        return None
    tokens: Tensor = output.penultimate_hidden_states
    return tokens[:1]
