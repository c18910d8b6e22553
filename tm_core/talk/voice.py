"""A voice on the time axis of a video: the step of a graph that encodes sound. Paper section 3.

Shapes: F latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ..audio.features import log_mel, samples_of_rows
from ..audio.growing_sound import GrowingSound
from ..audio.long_sound import LongMelFeatures
from ..audio.silenced_windows import WindowSource
from ..audio.speech_families import SpeechFamily, SpeechFeatures
from ..audio.windows import MelFeatures, rows_needed
from ..config import AudioConfig, ModelConfig, SamplerConfig
from ..errors import InputError
from ..families.registry import FAMILIES
from ..media.audio_io import LongWaveform, Waveform
from ..media.sound_reader import SoundSource
from ..timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class AudioWindows:
    """A sound on the time axis of the video, what a model is given of it, and the whole number of frames it fills.

    The sound may still be arriving (GrowingSound): then its length is not known before it has ended.
    """

    waveform: Waveform | LongWaveform | GrowingSound
    features: WindowSource
    timeline: Timeline
    source: SoundSource | None = None  # the file it came from: a saved video carries that sound as it is
    audio: AudioConfig = field(default_factory=AudioConfig)

    @property
    def sound(self) -> SoundSource | Waveform | None:
        """What a video of it carries, None for a sound that is still arriving."""
        if isinstance(self.waveform, GrowingSound):
            return None
        return self.source or (self.waveform.source if isinstance(self.waveform, LongWaveform) else self.waveform)

    @property
    def known_duration_s(self) -> float | None:
        """Duration of the sound, None while it is arriving."""
        count = self.waveform.num_samples
        return None if count is None else count / self.waveform.sample_rate

    @property
    def known_frames(self) -> int | None:
        """Frames of a video as long as the sound, None while it is arriving."""
        seconds = self.known_duration_s
        return None if seconds is None else self.timeline.num_frames(seconds)

    @property
    def duration_s(self) -> float:
        """Duration of the sound; InputError while it is arriving."""
        seconds = self.known_duration_s
        if seconds is None:
            raise InputError("audio", "a sound that is still arriving", "has no length yet", "end the sound first")
        return seconds

    @property
    def num_frames(self) -> int:
        """Frames of a video as long as the sound; InputError while it is arriving."""
        return self.timeline.num_frames(self.duration_s)

    @property
    def num_latents(self) -> int:
        """Latents of all chunks, those of the last chunk that are trimmed included; InputError while the sound is arriving."""
        return self.timeline.num_chunks(self.num_frames) * self.timeline.chunk_latents

    def windows(self, latents: range, *, each_clip: bool = False) -> Any:
        """Windows of these latents as the model's projector takes them, silence outside the sound."""
        return self.features.windows(latents, each_clip=each_clip)

    def samples_needed(self, latents: range) -> int:
        """Samples after which the windows of these latents are final; more look ahead of the picture."""
        return samples_of_rows(rows_needed(latents, self.timeline, self.audio), self.audio)


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
    waveform: Waveform | LongWaveform | GrowingSound, config: ModelConfig, source: SoundSource | None = None, speech: Tensor | None = None,
) -> AudioWindows:
    """Features of a sound; `source` is the file it came from, if any.

    `speech`: what an open checkpoint's own encoder made of the sound (audio.speech_families: encode_speech, from_host). InputError
    where it is missing, or given to a model that takes log-mel, and for a sound still arriving where the encoder needs all of it.
    """
    growing = isinstance(waveform, GrowingSound)
    if waveform.num_samples == 0:
        raise InputError("audio", source or "waveform", "holds no sound", "give at least one video frame of sound (0.04 s)")
    if waveform.sample_rate != config.audio.sample_rate:
        raise InputError("audio", f"{waveform.sample_rate} Hz", f"the model takes {config.audio.sample_rate} Hz", "resample it")
    timeline = timeline_of(config)
    family = speech_family(config, encoded=speech is not None)
    features: WindowSource
    if growing and family is not None:
        raise InputError("audio", "a sound that is still arriving", f"{family.encoder} encodes whole sounds", "end the sound first")
    if isinstance(waveform, LongWaveform | GrowingSound) and (family is None or speech is None):
        features = LongMelFeatures(waveform, timeline, config.audio)
    elif family is None or speech is None:
        assert isinstance(waveform, Waveform)
        features = MelFeatures(rows=log_mel(waveform.samples, config.audio), timeline=timeline, cfg=config.audio)
    else:
        assert not isinstance(waveform, GrowingSound)
        features = SpeechFeatures(values=speech, family=family, frames=timeline.num_frames(waveform.duration_s))
    return AudioWindows(waveform=waveform, features=features, timeline=timeline, source=source, audio=config.audio)


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
