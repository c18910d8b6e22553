"""Keys and values a stream keeps: static buffers, constant in stream length (paper section 4.3).

One `StepCache` per denoising step holds, for every block, un-roped keys and values of the anchor c0 and of
the chunk before, as they were at that step's noise level. c(t) takes the place of c(t-1) after attending.

A `HistoryCache` is its counterpart for a model with a compressed history: one run of latents, history first.

Shapes: B batch, L tokens of a chunk, S tokens of a latent, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class LayerCache:
    """Keys and values of one block: slot 0 is c0, slot 1 the chunk before."""

    keys: Tensor  # (2, B, L, H, E)
    values: Tensor

    def read(self, slots: int) -> list[tuple[Tensor, Tensor]]:
        """(key, value) of the first `slots` slots."""
        return [(self.keys[i], self.values[i]) for i in range(slots)]

    def write(self, slot: int, key: Tensor, value: Tensor) -> None:
        """Overwrite a slot in place."""
        self.keys[slot].copy_(key)
        self.values[slot].copy_(value)


@dataclass(kw_only=True)
class StepCache:
    """Caches of all blocks at one denoising step."""

    layers: list[LayerCache] = field(default_factory=list)

    @staticmethod
    def allocate(num_layers: int, batch: int, tokens: int, heads: int, head_dim: int, like: Tensor) -> StepCache:
        """Zeroed buffers on the device and of the type of `like`."""
        def empty() -> Tensor:
            return torch.zeros(2, batch, tokens, heads, head_dim, dtype=like.dtype, device=like.device)

        return StepCache(layers=[LayerCache(keys=empty(), values=empty()) for _ in range(num_layers)])

    @property
    def tokens(self) -> int:
        """Tokens of a chunk."""
        return self.layers[0].keys.shape[2]

    @property
    def buffers(self) -> list[Tensor]:
        """All of them, in one order."""
        return [t for layer in self.layers for t in (layer.keys, layer.values)]

    def copy(self) -> StepCache:
        """The same contents in buffers of its own."""
        return StepCache(layers=[LayerCache(keys=layer.keys.clone(), values=layer.values.clone()) for layer in self.layers])

    @property
    def nbytes(self) -> int:
        """Bytes the buffers take."""
        return sum(t.numel() * t.element_size() for t in self.buffers)


@dataclass(kw_only=True)
class HistoryLayer:
    """Keys and values of one block: history, then the chunk's own."""

    keys: Tensor  # (B, slots S, H, E)
    values: Tensor


@dataclass(kw_only=True)
class HistoryCache:
    """Caches of all blocks at one denoising step; `latent_tokens` is S."""

    layers: list[HistoryLayer]
    latent_tokens: int

    @staticmethod
    def allocate(num_layers: int, batch: int, slots: int, latent_tokens: int, heads: int, head_dim: int, like: Tensor) -> HistoryCache:
        """Zeroed buffers on the device and of the type of `like`."""
        def empty() -> Tensor:
            return torch.zeros(batch, slots * latent_tokens, heads, head_dim, dtype=like.dtype, device=like.device)

        return HistoryCache(layers=[HistoryLayer(keys=empty(), values=empty()) for _ in range(num_layers)], latent_tokens=latent_tokens)

    @property
    def buffers(self) -> list[Tensor]:
        """All of them, in one order."""
        return [t for layer in self.layers for t in (layer.keys, layer.values)]

    def copy(self) -> HistoryCache:
        """The same contents in buffers of its own."""
        layers = [HistoryLayer(keys=layer.keys.clone(), values=layer.values.clone()) for layer in self.layers]
        return HistoryCache(layers=layers, latent_tokens=self.latent_tokens)

    @property
    def nbytes(self) -> int:
        """Bytes the buffers take."""
        return sum(t.numel() * t.element_size() for t in self.buffers)
