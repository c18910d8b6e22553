"""What a user may choose about sampling, and what a model was made for where nothing is chosen.

Non-goals: what the families are (families/registry.py), sampling (streaming/).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..config import CacheMode, Guidance, ModelConfig, SamplerConfig
from ..errors import InputError
from ..inputs import check_steps
from .registry import FAMILIES, Mode

MAX_GUIDANCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Choices:
    """None: as the model was made for."""

    mode: Mode | None = None
    steps: int | None = None
    cache: CacheMode | None = None
    text: float | None = None  # guidance
    audio: float | None = None
    colour_correction: float | None = None


def settings(config: ModelConfig, choices: Choices) -> SamplerConfig:
    """How to sample a model; InputError for a choice that it cannot follow."""
    check_steps(choices.steps)
    for name, scale in (("text_guidance", choices.text), ("audio_guidance", choices.audio)):
        if scale is not None and not 0 <= scale <= MAX_GUIDANCE:
            raise InputError(name, scale, f"must be 0 to {MAX_GUIDANCE:g}", "1 is no guidance")
    sampler = _own(config, choices) if config.family is None else FAMILIES[config.family].sampler(
        mode=choices.mode, steps=choices.steps, shift=config.shift, text=choices.text, audio=choices.audio)
    if choices.colour_correction is not None:
        sampler = replace(sampler, colour_correction=choices.colour_correction)
    if choices.cache is None:
        return sampler
    if sampler.clip is not None:
        raise InputError("cache", choices.cache, "clips sampled at once keep no cache", "choose the sparse_causal mode, or leave it out")
    return replace(sampler, cache_mode=choices.cache)


def _own(config: ModelConfig, choices: Choices) -> SamplerConfig:
    """One of our own models: causal and without a prompt."""
    if choices.mode == "bidirectional":
        raise InputError("mode", choices.mode, f"{config.name} was made to stream", "choose sparse_causal, or leave it out")
    if choices.text not in (None, 1):
        raise InputError("text_guidance", choices.text, f"{config.name} reads no prompt", "leave it out")
    base = noise_schedule(config.sampler, choices.steps)
    return base if choices.audio is None else replace(base, guidance=Guidance(audio=choices.audio))


def noise_schedule(base: SamplerConfig, steps: int | None) -> SamplerConfig:
    """`base` with another number of denoising steps: the same curve of noise levels, sampled at `steps` points."""
    if steps is None or steps == base.num_steps:
        return base
    check_steps(steps)
    curve = [*base.sigmas, 0.0]
    at = np.linspace(0.0, base.num_steps, steps + 1)[:-1]
    return replace(base, sigmas=tuple(float(s) for s in np.interp(at, range(len(curve)), curve)))
