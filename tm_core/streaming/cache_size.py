"""What a stream's cache will take, known before anything is allocated, and the refusal of a run that cannot fit.

Keys and values of the anchor and of the chunk before, for every block, denoising step and pass of guidance (paper
section 4.3), or of a compressed history and the chunk; and those of text and picture, kept for the whole stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..config import CacheMode, DiTConfig, ModelConfig, SamplerConfig
from ..errors import InputError
from .guidance import of_steps, passes

SLOTS, KEY_AND_VALUE = 2, 2
IMAGE_TOKENS = 257
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class CacheSize:
    """Bytes of a stream's keys and values."""

    chunks: int  # of the latents a chunk sees besides its own, with a compressed history its own as well
    context: int  # of text and picture

    @property
    def total(self) -> int:
        """Both."""
        return self.chunks + self.context


def cache_size(dit: DiTConfig, sampler: SamplerConfig, latent_hw: tuple[int, int], dtype: torch.dtype) -> CacheSize:
    """Prediction for a stream whose latents have this height and width; nothing is kept between clips sampled at once."""
    of_token = KEY_AND_VALUE * dit.num_layers * dit.dim * dtype.itemsize
    texts = len({p.text for p in passes(sampler.guidance)})
    image = IMAGE_TOKENS if dit.image_dim is not None else 0
    if sampler.clip is not None:
        return CacheSize(chunks=0, context=0)
    tokens = (latent_hw[0] // dit.patch_size[1]) * (latent_hw[1] // dit.patch_size[2])
    return CacheSize(chunks=_kept_latents(sampler) * tokens * of_token, context=texts * (dit.text_len + image) * of_token)


def _kept_latents(sampler: SamplerConfig) -> int:
    """Of all denoising steps and passes of guidance."""
    if sampler.history is not None:
        return sampler.history.slots * sum(len(passes(guidance)) for guidance in of_steps(sampler))
    kept = sampler.num_steps if sampler.cache_mode == "per_step" else 1
    return SLOTS * sampler.chunk_latents * kept * len(passes(sampler.guidance))


def check_fits(config: ModelConfig, sampler: SamplerConfig, dtype: torch.dtype, free: int) -> CacheSize:
    """The size of a stream's cache that fits into `free` bytes; InputError that says what would fit otherwise."""
    size = cache_size(config.dit, sampler, config.latent_hw, dtype)
    if size.total <= free:
        return size
    rule = f"its cache of {size.total / GIB:.1f} GiB does not fit into the {free / GIB:.1f} GiB that are free"
    raise InputError("size", f"{config.width} x {config.height}", rule, _remedy(config, sampler, dtype, free))


def _remedy(config: ModelConfig, sampler: SamplerConfig, dtype: torch.dtype, free: int) -> str:
    clean: CacheMode = "clean_rerun"
    fewer = replace(sampler, cache_mode=clean)
    if sampler.history is None and cache_size(config.dit, fewer, config.latent_hw, dtype).total <= free:
        return "use cache mode clean_rerun, which keeps one cache for all steps"
    shortest = min(config.width, config.height)
    for sides in range(shortest // 32 - 1, 0, -1):
        scale = 32 * sides / shortest
        width, height = (max(16, round(n * scale / 16) * 16) for n in (config.width, config.height))
        if cache_size(config.dit, sampler, replace(config, width=width, height=height).latent_hw, dtype).total <= free:
            return f"use {width} x {height} or less"
    return "free some memory: not even the smallest picture fits"
