"""Wan's latent geometry and the checks every autoencoder of it shares.

Latent 0 is one frame, every later latent four; 8 pixels each way; 16 channels.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import InputError

LATENT_CHANNELS = 16
STRIDE, FRAMES = 8, 4  # pixels a latent covers each way; frames a latent covers, the first excepted


def check_latents(latents: Tensor) -> None:
    """InputError unless (1, 16, F, h, w) with F > 0."""
    if latents.dim() != 5 or latents.shape[:2] != (1, LATENT_CHANNELS) or not latents.shape[2]:
        rule = f"must be (1, {LATENT_CHANNELS}, F, h, w) with F > 0"
        raise InputError("latents", tuple(latents.shape), rule, "connect the latents of one stream of a Wan2.1 model")


def frame_groups(frames: Tensor, *, first: bool) -> list[Tensor]:
    """Frames (T, 3, H, W) as latents take them: 1 alone where they are the first, then 4 at a time; InputError otherwise."""
    if frames.dim() != 4 or frames.shape[1] != 3 or frames.shape[2] % STRIDE or frames.shape[3] % STRIDE:
        rule = f"must be (T, 3, H, W), height and width multiples of {STRIDE}"
        raise InputError("frames", tuple(frames.shape), rule, "crop or resize them")
    alone = int(first)
    if len(frames) < 1 or (len(frames) - alone) % FRAMES:
        raise InputError("frames", len(frames), "must be 1 + 4k at the start of a stream and 4k after it", "add or drop frames at the end")
    later = len(frames) // FRAMES
    return list(frames.split([1] * alone + [FRAMES] * later))
