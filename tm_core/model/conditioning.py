"""Wan's image conditioning `y`: which latents are given, and what the autoencoder made of the portrait."""

from __future__ import annotations

from torch import Tensor, cat, stack


def make_reference(latent: Tensor, latents: list[int]) -> Tensor:
    """(B, 4 + C, F, h, w) for absolute indices `latents`: mask channels (1 on latent 0), then the portrait's latents.

    `latent` (B, C, h, w) stands on every latent; of (B, C, N, h, w), a picture that video without content follows (Wan),
    the last stands on all later ones.
    """
    given = latent[:, :, None] if latent.dim() == 4 else latent
    batch, _, count, height, width = given.shape
    mask = given.new_zeros(batch, 4, len(latents), height, width)
    for k in (k for k, i in enumerate(latents) if i == 0):
        mask[:, :, k] = 1
    # one by one: a list of indices would be copied to a GPU, which waits for it
    return cat([mask, stack([given[:, :, min(i, count - 1)] for i in latents], 2)], 1)
