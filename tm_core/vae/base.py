"""The interface of a streaming video autoencoder: explicit state in, explicit state out.

Wan's latent geometry: latent 0 is one frame, every later latent four; stride 8 in space. Latents on both
sides are normalised to about unit scale. Nothing is kept on the module, so many streams share one set of
weights.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class StreamingVAE(Protocol):
    """What the pipeline needs of an autoencoder; states are opaque values the caller holds."""

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Latent (C, h, w) of a still picture (3, H, W) in 0..1."""
        ...

    def open_decoder(self, reference: Tensor | None) -> Any:
        """State before the first latent; `reference` (3, H, W) in 0..1 is the portrait the stream shows."""
        ...

    def decode(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Frames (T, 3, H, W) in 0..1 of the next latents (1, C, F, h, w), and the state after them."""
        ...

    def open_encoder(self) -> Any:
        """State before the first frame."""
        ...

    def encode(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Latents (1, C, F, h, w) of the next frames (T, 3, H, W), and the state after them."""
        ...


def device_of(module: Any) -> torch.device:
    """Where a module computes: it says so itself where a host keeps its weights elsewhere."""
    device: torch.device = getattr(module, "compute_device", None) or next(module.parameters()).device
    return device


def dtype_of(module: Any) -> torch.dtype:
    """The precision a module computes in."""
    dtype: torch.dtype = getattr(module, "compute_dtype", None) or next(module.parameters()).dtype
    return dtype
