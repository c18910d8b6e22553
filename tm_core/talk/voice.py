"""A voice on the time axis of a video: the step of a graph that encodes sound. Paper section 3.

Shapes: F latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..audio.features import log_mel
from ..audio.long_sound import LongMelFeatures
from ..audio.silenced_windows import WindowSource
from ..audio.speech_families import SpeechFamily, SpeechFeatures
from ..audio.windows import MelFeatures
from ..config import ModelConfig, SamplerConfig
from ..errors import InputError
from ..families.registry import FAMILIES
from ..media.audio_io import LongWaveform, Waveform
from ..media.sound_reader import SoundSource
from ..timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class AudioWindows:
    """A sound on the time axis of the video, what a model hears of it, and the whole number of frames it fills."""

    waveform: Waveform | LongWaveform
    features: WindowSource
    timeline: Timeline
    source: SoundSource | None = None  # the file it came from: a saved video carries that sound as it is

    @property
    def sound(self) -> SoundSource | Waveform:
        """What a video of it carries."""
        return self.source or (self.waveform.source if isinstance(self.waveform, LongWaveform) else self.waveform)

    @property
    def num_frames(self) -> int:
        """Frames of a video as long as the sound."""
        return self.timeline.num_frames(self.duration_s)

    @property
    def num_latents(self) -> int:
        """Latents of all chunks, those of the last chunk that are trimmed included."""
        return self.timeline.num_chunks(self.num_frames) * self.timeline.chunk_latents

    @property
    def duration_s(self) -> float:
        """Duration of the sound."""
        return self.waveform.duration_s

    def windows(self, latents: range, *, each_clip: bool = False) -> Any:
        """Windows of these latents as the model's projector takes them, silence outside the sound."""
        return self.features.windows(latents, each_clip=each_clip)


def timeline_of(config: ModelConfig, sampler: SamplerConfig | None = None) -> Timeline:
    """The time axis of a model's streams; `sampler` where it is not sampled as its configuration says."""
    sampler = sampler or config.sampler
    make = partial(Timeline, fps=config.frame_rate, stride=config.temporal_stride)
    if sampler.history is not None:
        return make(chunk_latents=sampler.history.chunk_latents, first_latents=sampler.history.first_latents)
    if sampler.clip is not None:
        return make(chunk_latents=sampler.clip.latents - sampler.clip.repeated_latents, first_latents=sampler.clip.latents)
    return make(chunk_latents=sampler.chunk_latents)


def encode_audio(
    waveform: Waveform | LongWaveform, config: ModelConfig, source: SoundSource | None = None, speech: Tensor | None = None,
) -> AudioWindows:
    """Features of a sound; `source` is the file it came from, if any.

    `speech`: what an open checkpoint's own encoder made of the sound (audio.speech_families: encode_speech, from_host). InputError
    where it is missing, or given to a model that hears log-mel.
    """
    if waveform.num_samples == 0:
        raise InputError("audio", source or "waveform", "holds no sound", "give at least one video frame of sound (0.04 s)")
    timeline = timeline_of(config)
    family = speech_family(config, encoded=speech is not None)
    features: WindowSource
    if isinstance(waveform, LongWaveform) and (family is None or speech is None):
        features = LongMelFeatures(waveform, timeline, config.audio)
    elif family is None or speech is None:
        features = MelFeatures(rows=log_mel(waveform.samples, config.audio), timeline=timeline, cfg=config.audio)
    else:
        features = SpeechFeatures(values=speech, family=family, frames=timeline.num_frames(waveform.duration_s))
    return AudioWindows(waveform=waveform, features=features, timeline=timeline, source=source)


def speech_family(config: ModelConfig, *, encoded: bool) -> SpeechFamily | None:
    """How an open checkpoint hears, None for one of ours, which hears log-mel.

    InputError for a family that does not hear, and where there is no encoder, or nothing it made (`encoded`).
    """
    if config.family is None:
        return None
    family = FAMILIES[config.family]
    if family.speech is None:
        raise InputError("audio", family.title, "does not hear", "load an adapter that does beside it, as InfiniteTalk's")
    if not encoded:
        raise InputError(
            "audio_encoder", "nothing", f"{family.title} hears through {family.speech.encoder}",
            "load it with AudioEncoderLoader and connect it")
    return family.speech
