"""The host's MODEL, VAE, AUDIO_ENCODER and CLIP_VISION as parts of the engine: same weights, our streaming code, the host's memory.

Weights are brought to their device through the host before a stream runs (`TalkingModel.ready`), on the thread that executes
the node: the transformer and the autoencoders together, so that none is put out for another in the middle of a stream.
Non-goals: what a node looks like (open_model.py), the transformer (hosted.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..tm_core.audio.families import FAMILIES as SPEECH
from ..tm_core.audio.families import SpeechFamily, encode_speech, from_host
from ..tm_core.audio.wav2vec2 import Wav2Vec2, build_wav2vec2
from ..tm_core.batch.digest import SAMPLES, content_digest, model_digest, parts_digest
from ..tm_core.errors import InputError
from ..tm_core.model.talking import TalkingModel
from ..tm_core.vae.base import StreamingVAE
from ..tm_core.weights.autoencoders import build_autoencoder
from ..tm_core.weights.families import FAMILIES, model_config
from . import hosted

LATENTS_AT_ONCE = 21  # the most that pass the transformer together


class HostedAutoencoder:
    """A host VAE of Wan2.1's latents as a StreamingVAE."""

    def __init__(self, vae: Any) -> None:
        state = vae.first_stage_model.state_dict()
        self._net: Any = build_autoencoder(state, "VAE", comfy.ops.disable_weight_init)
        self.compute_device, self.compute_dtype = torch.device(vae.device), next(iter(state.values())).dtype
        offload = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.ModelPatcher(self._net, load_device=vae.device, offload_device=offload)

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights."""
        weights: dict[str, Tensor] = self._net.state_dict()
        return weights

    def __deepcopy__(self, memo: Any) -> HostedAutoencoder:
        return self  # `to` makes the copy

    def to(self, device: torch.device) -> StreamingVAE:
        """A copy on another device, which the host knows nothing of."""
        return build_autoencoder(
            {k: v.to(device, copy=True) for k, v in self._net.state_dict().items()}, "VAE", comfy.ops.disable_weight_init)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """As StreamingVAE."""
        latent: Tensor = self._net.encode_image(rgb)
        return latent

    def open_decoder(self, reference: Tensor | None) -> Any:
        """As StreamingVAE."""
        return self._net.open_decoder(reference)

    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As StreamingVAE."""
        frames, state = self._net.decode(latents, state)
        return frames, state

    def open_encoder(self) -> Any:
        """As StreamingVAE."""
        return self._net.open_encoder()

    def encode(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As StreamingVAE."""
        latents, state = self._net.encode(frames, state)
        return latents, state


@dataclass(frozen=True, kw_only=True)
class HostedModel(TalkingModel):
    """A TalkingModel of a host MODEL, which keeps the transformer's weights and the patches (LoRA) on them."""

    host: Any


def network_of(model: Any) -> hosted.HostedDiT:
    """The transformer of a host MODEL; InputError for one that another loader made."""
    network = getattr(model.model, "diffusion_model", None)
    if not isinstance(network, hosted.HostedDiT):
        raise InputError("model", type(model.model).__name__, "was not loaded for talking", "load it with Load Open Talking Model")
    return network


def talking_model(model: Any, vae: Any, width: int, height: int) -> TalkingModel:
    """A host MODEL and VAE for every node of ours; patches of the MODEL (LoRA, shift) stay on."""
    network, autoencoder = network_of(model), HostedAutoencoder(vae)
    network.run_on = model.load_device
    shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    return HostedModel(
        config=model_config(network.found, width, height, shift=shift), dit=network, projector=network.projector, vae=autoencoder,
        host=model, ready=partial(_bring, model, autoencoder, (height, width)))


def _bring(model: Any, own: HostedAutoencoder, size: tuple[int, int], autoencoder: StreamingVAE, reserve: int) -> None:
    """Weights of the transformer and of the autoencoders onto their devices, with room for a stream."""
    patchers = {id(a): a.patcher for a in (own, autoencoder) if isinstance(a, HostedAutoencoder)}
    activations = model.memory_required((1, 16, LATENTS_AT_ONCE, size[0] // 8, size[1] // 8))
    comfy.model_management.load_models_gpu([model, *patchers.values()], memory_required=reserve + activations)


def digest_of(model: TalkingModel) -> str:
    """As model_digest, for a host MODEL too: its weights as they were loaded, patched at this moment or not, and its patches.

    Not in it: what other nodes wrap around the MODEL for the host's own samplers, which a stream does not pass.
    """
    if not isinstance(model, HostedModel):
        return model_digest(model)
    host = model.host
    weights = {k: host.backup[k].weight if k in host.backup else v for k, v in host.model_state_dict("diffusion_model.").items()}
    found = parts_digest(model.config, [_plain(weights), _plain(model.vae.state_dict())])  # type: ignore[attr-defined]
    patches = {key: [_told(patch) for patch in made] for key, made in host.patches.items()}
    return content_digest([found, patches], SAMPLES) if patches else found


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantised tensors as the tensors they are made of, which can be looked at without unpacking them."""
    plain = {}
    for name, value in weights.items():
        parts = value.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(value) else []
        plain |= {f"{name}{part}": getattr(value, part) for part in parts} or {name: value}
    return plain


def _told(patch: Any) -> Any:
    """A patch of the host's (numbers, tensors, adapters that hold some, functions) in words and tensors."""
    if patch is None or isinstance(patch, str | int | float | Tensor):
        return patch
    if isinstance(patch, list | tuple):
        return [_told(part) for part in patch]
    return [getattr(patch, "__qualname__", type(patch).__qualname__), *(_told(part) for part in getattr(patch, "weights", ()))]


def speech_of(family: str) -> SpeechFamily:
    """How a family hears; InputError for one that does not."""
    speech = FAMILIES[family].speech
    if speech is None:
        raise InputError("audio", FAMILIES[family].title, "does not hear", f"load an adapter that does beside it: {', '.join(SPEECH)}")
    return speech


def hear(audio_encoder: Any, samples: Any, family: SpeechFamily) -> Tensor:
    """Features of a sound (n,) at 16 kHz by a host AUDIO_ENCODER's weights, prepared and stretched as the family was trained.

    The weights stay where the host keeps them; each layer is brought to the device while it computes.
    """
    return encode_speech(ears(audio_encoder), samples, family, device=audio_encoder.load_device).cpu()


def ears(audio_encoder: Any) -> Wav2Vec2:
    """A host AUDIO_ENCODER's weights in our encoder; InputError for one that is no wav2vec2 of the families'."""
    network = getattr(audio_encoder, "model", None)
    if network is None:
        raise InputError("audio_encoder", type(audio_encoder).__name__, "is no audio encoder", "connect AudioEncoderLoader")
    return build_wav2vec2(network.state_dict(), operations=comfy.ops.manual_cast, dtype=audio_encoder.dtype)


def heard(output: Mapping[str, Any], family: SpeechFamily, *, approximate: bool) -> Tensor:
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


def see(clip_vision: Any, picture: Tensor) -> Tensor | None:
    """CLIP tokens of a picture (1, H, W, 3) in 0..1 by a host CLIP_VISION, cut as the host's CLIPVisionEncode does at `center`."""
    return picture_tokens(clip_vision.encode_image(picture, crop=True))


def eyes(clip_vision: Any) -> dict[str, Tensor]:
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
