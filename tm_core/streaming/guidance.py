"""Classifier-free guidance for text and sound apart, and the noise levels of open checkpoints' samplers.

Two rules of joining evaluations, as their families do (sources below): FantasyTalking adds the text's direction
without sound and the sound's with text, MultiTalk the sound's without text and the text's with sound. Where one of the
scales is 1 both rules need fewer evaluations. Velocities or clean latents may be joined: both are linear in each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ..config import Guidance, SamplerConfig


class Pass(NamedTuple):
    """One evaluation of the network: with the prompt or the negative one, with sound or silence."""

    text: bool
    audio: bool


BOTH, NO_TEXT, NO_AUDIO, NEITHER = Pass(True, True), Pass(False, True), Pass(True, False), Pass(False, False)


# sources of the rules: fantasytalking, `WanVideoPipeline.__call__` of Fantasy-AMAP/fantasy-talking 8c2d0c9; multitalk,
# `generate_infinitetalk` of MeiGen-AI/InfiniteTalk 0107cd9


def passes(guidance: Guidance) -> tuple[Pass, ...]:
    """The evaluations a step needs, the guided one first."""
    if guidance.text == 1 and guidance.audio == 1:
        return (BOTH,)
    if guidance.text == 1:
        return BOTH, NO_AUDIO
    if guidance.audio == 1:
        return BOTH, NO_TEXT
    return (BOTH, NO_AUDIO, NEITHER) if guidance.rule == "fantasytalking" else (BOTH, NO_TEXT, NEITHER)


def of_steps(sampler: SamplerConfig) -> tuple[Guidance, ...]:
    """What guides each denoising step: one that does not hear is guided by the text alone."""
    # the rule of these two needs no third evaluation where the sound's scale is 1
    without_audio = Guidance(text=sampler.guidance.text, rule="fantasytalking")
    uses_audio = (True,) * sampler.num_steps if sampler.history is None else sampler.history.uses_audio
    return tuple(sampler.guidance if on else without_audio for on in uses_audio)


def join(guidance: Guidance, made: Mapping[Pass, Tensor]) -> Tensor:
    """The guided output of what each of `passes` gave."""
    both, needed = made[BOTH], passes(guidance)
    if needed == (BOTH,):
        return both
    if needed == (BOTH, NO_AUDIO):
        return made[NO_AUDIO] + guidance.audio * (both - made[NO_AUDIO])
    if needed == (BOTH, NO_TEXT):
        return made[NO_TEXT] + guidance.text * (both - made[NO_TEXT])
    neither = made[NEITHER]
    if guidance.rule == "fantasytalking":
        return neither + guidance.text * (made[NO_AUDIO] - neither) + guidance.audio * (both - made[NO_AUDIO])
    return neither + guidance.text * (both - made[NO_TEXT]) + guidance.audio * (made[NO_TEXT] - neither)


def shifted(level: float, shift: float) -> float:
    """Wan's shift of a noise level in 0..1 towards noise."""
    return shift * level / (1 + (shift - 1) * level)


def noise_levels(steps: int, shift: float, *, last: float | None = None) -> tuple[float, ...]:
    """Levels at which each step's network looks, first 1, shifted; after the last one comes 0.

    Before the shift they are even from 1 to `last` (MultiTalk: 1 / 1000), or from 1 to 0 without its end (Wan, FantasyTalking).
    """
    end = 1 / steps if last is None else last
    even = [1.0] if steps == 1 else [1 + (end - 1) * i / (steps - 1) for i in range(steps)]
    return tuple(shifted(level, shift) for level in even)
