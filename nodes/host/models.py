"""The host's MODEL and VAE as a TalkingModel: same weights, our streaming code, the host's memory.

Weights are brought to their device through the host before streams run (`HostWeights`), on the thread that executes the node: all
transformers and autoencoders together, so that none is put out for another in the middle of a stream.
Non-goals: what a node looks like (open_model.py), the transformer (wan.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import comfy.model_management
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...tm_core.batch.digest import SAMPLES, content_digest, model_digest, parts_digest
from ...tm_core.errors import InputError
from ...tm_core.families.registry import model_config
from ...tm_core.model.talking import TalkingModel, WeightNeeds
from . import states
from .autoencoder import HostedAutoencoder
from .wan import HostedDiT

LATENTS_AT_ONCE = 21  # the most that pass the transformer together


@dataclass(frozen=True, kw_only=True)
class HostedModel(TalkingModel):
    """A TalkingModel of a host MODEL, which keeps the transformer's weights and the patches (LoRA) on them."""

    host: Any


def network_of(model: Any) -> HostedDiT:
    """The transformer of a host MODEL; InputError for one that another loader made."""
    network = getattr(model.model, "diffusion_model", None)
    if not isinstance(network, HostedDiT):
        raise InputError("model", type(model.model).__name__, "was not loaded for talking", "load it with Load Open Talking Model")
    return network


def talking_model(model: Any, vae: Any, width: int, height: int) -> TalkingModel:
    """A host MODEL and VAE for every node of ours; patches of the MODEL (LoRA, shift) stay on."""
    network, autoencoder = network_of(model), HostedAutoencoder(vae)
    network.compute(device=model.load_device)
    shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    return HostedModel(
        config=model_config(network.found, width, height, shift=shift), dit=network, projector=network.projector, vae=autoencoder,
        host=model, loader=HostWeights())


class HostWeights:
    """The host as `WeightLoader`: the weights of all streams that run at the same time in one go, with room for their caches.

    In several goes it would put out the first one's for the second one's. All loaders of the host are equal, so that a canvas
    of several models is one go; it may hold models whose weights stay where they are as well.
    """

    def load(self, needs: Sequence[WeightNeeds]) -> None:
        """Bring them; InputError for two versions (LoRA) of one MODEL: its weights are patched in one way at a time."""
        models = [need.model.host for need in needs if need.transformer and isinstance(need.model, HostedModel)]
        for one, other in combinations(models, 2):
            if one.is_clone(other) and not one.clone_has_same_weights(other):
                raise InputError(
                    "layers", "two versions of one MODEL", "its weights are patched in one way at a time",
                    "put Preview Stream between one of them and its Layer, so that it is sampled before")
        used = [v for need in needs for v in ((need.model.vae, need.autoencoder) if need.transformer else (need.autoencoder,))]
        autoencoders = {id(v): v.patcher for v in used if isinstance(v, HostedAutoencoder)}
        versions = {id(model.model): model for model in models}
        comfy.model_management.load_models_gpu(
            [*versions.values(), *autoencoders.values(), states.entry()], memory_required=sum(map(_room, needs)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostWeights)

    def __hash__(self) -> int:
        return hash(HostWeights)


def _room(need: WeightNeeds) -> int:
    """Bytes on the host's device besides weights: what the stream keeps, and activations."""
    model = need.model
    if not need.transformer:
        return need.reserve
    if not isinstance(model, HostedModel):
        return need.reserve if model.dit.compute_device == comfy.model_management.get_torch_device() else 0
    return need.reserve + int(model.host.memory_required((1, model.config.dit.out_dim, LATENTS_AT_ONCE, *model.config.latent_hw)))


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
