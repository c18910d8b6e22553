"""The host's VAE as an autoencoder of the engine: same weights, our streaming code, the host's memory."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ...tm_core.vae.base import StreamingVAE
from ...tm_core.weights.autoencoders import build_autoencoder


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
