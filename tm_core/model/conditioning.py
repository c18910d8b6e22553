"""Wan's image conditioning `y`: which latents are given, and the portrait's latent on every one of them."""

from __future__ import annotations

from torch import Tensor, cat


def make_reference(latent_BChw: Tensor, latents: list[int]) -> Tensor:
    """(B, 4 + C, F, h, w): mask channels (1 on latent 0), then the portrait's latent, for absolute indices `latents`."""
    batch, _, height, width = latent_BChw.shape
    given = latent_BChw.new_zeros(batch, 4, len(latents), height, width)
    given[:, :, [k for k, i in enumerate(latents) if i == 0]] = 1
    return cat([given, latent_BChw[:, :, None].expand(-1, -1, len(latents), -1, -1)], 1)
