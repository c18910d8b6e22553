"""When a voice speaks and when its face is silent: the step of a graph between sound and scene. Paper section 3.

Shapes: F latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..audio.growing_sound import ConstantFlags, GrowingFlags, GrowingSound
from ..audio.long_sound import LongFlags
from ..audio.silence import RULE, Levels, SpeakingStream, StretchedSpeaking, check_rule, loudness_db, speaking_latents, warn_if_silent
from ..audio.silenced_windows import Flags, Silence, SilencedWindows, flags_at
from ..audio.turns import Span, SpeakingTurns, flags_of_spans, spans_of_flags
from ..errors import InputError
from ..inputs import SpeakingMode, check_options
from ..media.audio_io import LongWaveform, Waveform
from .voice import AudioWindows


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice and when it speaks: flags (F,), True where the lips follow the sound.

    `silence`: what the model is given elsewhere. zero: no sound at all, the zero embedding. real: windows of digital silence.
    """

    voice: AudioWindows
    flags: Flags
    silence: Silence = "zero"

    def windows(self, latents: range, *, each_clip: bool = False) -> Any:
        """Windows of these latents as the model's projector takes them; with real silence, of silence where it does not speak."""
        if self.silence == "zero":
            return self.voice.windows(latents, each_clip=each_clip)
        return SilencedWindows(sound=self.voice, flags=self.flags).windows(latents, each_clip=each_clip)

    def speaking(self, latents: range) -> Tensor:
        """Which of these latents are given their windows (F,); with zero silence those that speak, none outside the sound."""
        return torch.ones(len(latents), dtype=torch.bool) if self.silence == "real" else flags_at(self.flags, latents)

    def samples_needed(self, latents: range) -> int:
        """Samples after which windows and flags of these latents are final."""
        windows = self.voice.samples_needed(latents)
        return max(windows, self.flags.samples_needed(latents)) if isinstance(self.flags, GrowingFlags) else windows

    def lasting(self, seconds: float) -> Speaker:
        """The same speaker, silent after the end until `seconds`; InputError while its sound is arriving."""
        sound, length = self.voice.waveform, round(self.voice.duration_s * self.voice.waveform.sample_rate)
        missing = round(seconds * sound.sample_rate) - length
        if missing <= 0:
            return self
        if isinstance(sound, GrowingSound):
            sound = Waveform(samples=np.concatenate(list(sound.pieces())), sample_rate=sound.sample_rate)
        if isinstance(sound, LongWaveform):
            return replace(self, voice=replace(self.voice, waveform=replace(sound, num_samples=sound.num_samples + missing)))
        longer = Waveform(samples=np.concatenate([sound.samples, np.zeros(missing, np.float32)]), sample_rate=sound.sample_rate)
        return replace(self, voice=replace(self.voice, waveform=longer))

    @property
    def spans(self) -> tuple[Span, ...]:
        """The seconds of the video in which it speaks."""
        return spans_of_flags(np.asarray(self.flags), self.voice.timeline)


def select_speaking(
    voice: AudioWindows, mode: SpeakingMode = "auto", *, silence: Silence = "zero", turns: SpeakingTurns | None = None, name: str = "",
    **thresholds: Any,
) -> Speaker:
    """When the face speaks: by loudness (`auto`, see audio.silence for the thresholds), always or never.

    `turns`: instead, in those of `name`, which may be left out where it is the only one. InputError for a name or a turn
    that does not fit.
    """
    check_options(speaking=mode)
    if silence not in get_args(Silence):
        raise InputError("silence", silence, "unknown kind of silence", f"choose one of {', '.join(get_args(Silence))}")
    flags: Flags
    if turns is not None:
        own = turns.inside(name or _only(turns), voice.duration_s)
        flags = flags_of_spans(own, voice.num_latents, voice.timeline)
    elif mode != "auto":
        growing = isinstance(voice.waveform, GrowingSound)
        flags = ConstantFlags(mode == "speaking") if growing else np.full(voice.num_latents, mode == "speaking")
    else:
        flags = _flags_by_loudness(voice, **thresholds)
    return Speaker(voice=voice, flags=flags, silence=silence)


def _flags_by_loudness(voice: AudioWindows, levels: Levels = "relative", **rule: Any) -> Flags:
    """Flags (F,) by loudness; of a long sound, found as they are asked for."""
    sound, timeline = voice.waveform, voice.timeline
    if isinstance(sound, GrowingSound):
        return _growing_flags(voice, sound, levels, rule)
    if isinstance(sound, LongWaveform):
        check_rule(**{**RULE, **rule}, levels=levels)
        stream = StretchedSpeaking if levels == "relative" else SpeakingStream
        return LongFlags(sound, voice.num_latents, partial(stream, timeline, sample_rate=sound.sample_rate, **{**RULE, **rule}))
    flags = speaking_latents(sound.samples, voice.num_latents, timeline, sample_rate=sound.sample_rate, levels=levels, **rule)
    if not flags.any():
        warn_if_silent(False, float(loudness_db(sound.samples, sound.sample_rate).max()))
    return flags


def _growing_flags(voice: AudioWindows, sound: GrowingSound, levels: Levels, rule: dict[str, Any]) -> GrowingFlags:
    if levels != "absolute":
        raise InputError("levels", levels, "a sound that is still arriving has no loud part to compare with", "use absolute levels")
    stream = SpeakingStream(voice.timeline, sample_rate=sound.sample_rate, **{**RULE, **rule})
    return GrowingFlags(sound, voice.timeline, lambda: None if voice.known_frames is None else voice.num_latents, stream)


def _only(turns: SpeakingTurns) -> str:
    if len(turns.names) != 1:
        raise InputError("name", "nothing", f"the timeline names {', '.join(turns.names)}", "say which of them this voice is")
    return turns.names[0]
