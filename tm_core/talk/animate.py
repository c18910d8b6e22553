"""The whole job for files: every step of a graph, from a picture and a sound to a stream of frames."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from ..compose.canvas import FrameStream
from ..errors import InputError
from ..face.found import find_faces
from ..face.portrait_crop import UNUSABLE
from ..families.settings import Choices
from ..inputs import SpeakingMode, VideoFraming
from ..media.audio_io import LongWaveform, Waveform, open_audio
from ..media.image_io import open_image, open_mask
from ..media.sound_reader import SoundSource, SoundTrack
from ..model.talking import TalkingModel
from ..options import AnimateOptions
from .characters import Character, scene_stream
from .portrait import Portrait, prepare_portrait
from .scene import Prompt, build_scene
from .speaker import Speaker, select_speaking
from .stream import decode_stream, sample_stream
from .voice import encode_audio

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """What open checkpoints need besides: of a sound the features of their own encoder (encode_audio), of a portrait the prompt."""

    speech: Callable[[Waveform | LongWaveform], Tensor | None] | None = None
    prompt: Callable[[Portrait], Prompt] | None = None

    def encoded(self, sound: Waveform | LongWaveform) -> Tensor | None:
        """The features, None for a model that makes its own."""
        return None if self.speech is None else self.speech(sound)

    def prompt_of(self, portrait: Portrait) -> Prompt | None:
        """The prompt, None for a model that reads none."""
        return None if self.prompt is None else self.prompt(portrait)


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where and with how much room ahead a stream is decoded; it changes no pixel."""

    decode_device: str | None = None
    queue_depth: int = 2


def animate(
    image: Path, audio: Path, *, model: TalkingModel, options: AnimateOptions | None = None, mask: Path | None = None,
    choices: Choices | None = None, encoders: Encoders | None = None, running: Running | None = None,
) -> FrameStream:
    """A stream of frames as long as the sound; nothing is sampled before a sink pulls. InputError for what cannot be used.

    `mask` is a picture of what the voice may move. `options.steps` counts before those of `choices`.
    """
    options, encoders, running = options or AnimateOptions(), encoders or Encoders(), running or Running()
    options.check()
    choices = choices or Choices()
    choices = replace(choices, steps=options.steps or choices.steps)
    source = audio if options.track is None else SoundTrack(path=audio, track=options.track)
    sound, picture = open_audio(source), open_image(image)
    portraits = _portraits(picture, model, options, mask)
    speaker = _speaker(sound, model, options, source, encoders)
    if options.face == "all":
        return scene_stream(
            model, picture, [Character(portrait=portrait, speaker=speaker) for portrait in portraits], source, seed=options.seed,
            choices=choices, prompt=encoders.prompt_of(portraits[0]), device=running.decode_device, queue_depth=running.queue_depth,
            blinks=options.blinks, size=options.size)
    built = build_scene(model, portraits[0], speaker, choices=choices, prompt=encoders.prompt_of(portraits[0]))
    latents = sample_stream(model, built, seed=options.seed)
    return decode_stream(
        latents, device=running.decode_device, queue_depth=running.queue_depth, blinks=options.blinks,
        framing=cast(VideoFraming, options.framing), size=options.size)


def _speaker(
    sound: Waveform | LongWaveform, model: TalkingModel, options: AnimateOptions, source: SoundSource, encoders: Encoders,
) -> Speaker:
    voice = encode_audio(sound, model.config, source, encoders.encoded(sound))
    return select_speaking(voice, cast(SpeakingMode, options.speaking))


def _portraits(picture: np.ndarray, model: TalkingModel, options: AnimateOptions, mask: Path | None) -> list[Portrait]:
    """Whom to animate in a picture (H, W, 3): the face that was chosen, or all of them."""
    if options.face != "all":
        region = None if mask is None else open_mask(mask)
        return [prepare_portrait(picture, model.config, face_index=options.face, mask=region, strict=options.strict)]
    if mask is not None:
        raise InputError("mask", mask, "a mask marks one face, and all are animated", "leave out the mask, or choose one face")
    return every_portrait(picture, model, strict=options.strict)


def every_portrait(picture: np.ndarray, model: TalkingModel, *, strict: bool = False) -> list[Portrait]:
    """All faces of a picture in reading order that are large enough; InputError where there is none. `strict` as for prepare_portrait."""
    faces = find_faces(picture)
    large = [i for i, face in enumerate(faces.faces) if face.extent >= UNUSABLE]
    if len(large) < len(faces.faces):
        log.warning("faces below %d pixels stay still: %d of %d", UNUSABLE, len(faces.faces) - len(large), len(faces.faces))
    return [prepare_portrait(picture, model.config, face_index=i, faces=faces, strict=strict) for i in large or [0]]
