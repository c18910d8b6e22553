"""Portraits, speakers and a prompt become a scene that a sampler takes: the step of a graph before sampling. Paper section 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..audio.growing_sound import GrowingSound
from ..config import ModelConfig, SamplerConfig
from ..errors import InputError
from ..face.eyes import eyes_covered
from ..face.mask import moved_mask, token_mask
from ..face.portrait_crop import PortraitCrop
from ..families.registry import FAMILIES
from ..families.settings import Choices, settings
from ..model.talking import TalkingModel, WeightNeeds, load_weights
from ..streaming.cancel import CancelToken
from ..streaming.handles import SoundArrival, StreamMeta
from ..streaming.mailbox import WAIT_S
from ..streaming.sampler import Scene, SpeakerInput
from ..vae.base import device_of, dtype_of
from ..vae.rendering import FaceView
from .framing import view_of
from .portrait import Portrait
from .speaker import Speaker
from .voice import timeline_of

WAN_LATENTS = 21  # that Wan was trained on at a time: what its picture of a still beginning covers


@dataclass(frozen=True, kw_only=True)
class BuiltScene:
    """What the sampler needs, what the decoder needs and what a sink needs."""

    scene: Scene
    image: Tensor  # (3, H, W) in 0..1
    meta: StreamMeta
    sampler: SamplerConfig
    view: FaceView | None = None  # the picture, at its own size, where the model draws one face of it
    eyes: bool = True  # nothing covers them
    arrival: SoundArrival | None = None  # while the first speaker's sound is arriving


@dataclass(frozen=True, kw_only=True)
class SpeakersArrival:
    """How far the sounds of a scene's speakers have arrived; the first one's is as long as the video."""

    speakers: tuple[Speaker, ...]

    @property
    def num_frames(self) -> int | None:
        """Frames of the video, None while the first sound goes on."""
        return self.speakers[0].voice.known_frames

    def wait(self, latents: range, cancel: CancelToken) -> None:
        """Returns once windows and flags of these latents are final; raises Cancelled."""
        for speaker in self.speakers:
            sound = speaker.voice.waveform
            if isinstance(sound, GrowingSound):
                while not sound.wait(speaker.samples_needed(latents), WAIT_S):
                    cancel.check()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What open checkpoints are given besides the sound: text (1, L, text_dim), the negative one, CLIP tokens (1, 257, image_dim)."""

    text: Tensor | None = None
    negative: Tensor | None = None
    image: Tensor | None = None


def build_scene(
    model: TalkingModel, portrait: Portrait, speaker: Speaker, *, others: Sequence[tuple[Portrait, Speaker]] = (),
    choices: Choices | None = None, prompt: Prompt | None = None,
) -> BuiltScene:
    """Portrait, voice and prompt as the sampler takes them; InputError for what does not fit this model.

    `others`: who else speaks in the same picture, each with a mask of their own. The video is as long as the first voice, and
    shows what the first portrait does: of the others, the masks count.
    """
    config, prompt, voice = model.config, prompt or Prompt(), speaker.voice
    sampler = settings(config, choices or Choices())
    check_prompt(config, sampler, prompt)
    speakers = tuple(_speaker(config, sampler, portrait.crop, *member) for member in [(portrait, speaker), *others])
    meta = StreamMeta(
        width=config.width, height=config.height, num_frames=voice.known_frames, timeline=timeline_of(config, sampler),
        audio_s=voice.known_duration_s, audio=voice.sound, warnings=portrait.doubts)
    scene = Scene(
        reference=encode_picture(model, portrait.image, sampler), speakers=speakers, frames=voice.known_frames, picture=portrait.image,
        text=prompt.text, image=prompt.image, negative=prompt.negative)
    view = view_of(portrait) if config.framing == "face" else None
    arrival = SpeakersArrival(speakers=(speaker, *(other for _, other in others)))
    return BuiltScene(
        scene=scene, image=portrait.image, meta=meta, sampler=sampler, view=view,
        eyes=view is None or not eyes_covered(portrait.crop.image, portrait.crop.landmarks),
        arrival=arrival if voice.known_frames is None else None)


def _speaker(config: ModelConfig, sampler: SamplerConfig, frame: PortraitCrop, portrait: Portrait, speaker: Speaker) -> SpeakerInput:
    size = portrait.crop.image.shape[:2]
    if size != (config.height, config.width):
        raise InputError(
            "portrait", f"{size[1]}x{size[0]}", f"the model draws {config.width}x{config.height}",
            "prepare the portrait with the model that animates it")
    mask = moved_mask(portrait.mask, portrait.crop.box, frame.box)
    if mask is not portrait.mask and float(mask.max()) <= 0:
        raise InputError(
            "portrait", "a speaker", "is outside the part of the picture that the model shows", "choose a size of the picture's shape")
    return SpeakerInput(
        windows=partial(speaker.windows, each_clip=sampler.clip is not None), speaking=speaker.speaking,
        mask=torch.from_numpy(token_mask(mask, config.token_hw)))


def check_prompt(config: ModelConfig, sampler: SamplerConfig, prompt: Prompt) -> None:
    """InputError where an open checkpoint was trained with a prompt and gets none, or gets another model's."""
    title = config.name if config.family is None else FAMILIES[config.family].title
    for name, text, needed in (("positive", prompt.text, True), ("negative", prompt.negative, sampler.guidance.text != 1)):
        if text is None and needed and config.family is not None:
            raise InputError(name, "nothing", f"{title} was trained with a prompt", "connect CLIP Text Encode, even with little text")
        remedy = "leave it out" if config.family is None else "encode it with Wan's text encoder, umT5-XXL"
        _check_width(name, text, config.dit.text_dim, title, remedy)
    if config.dit.image_dim is not None:
        _check_width("clip_vision_output", prompt.image, config.dit.image_dim, title, "load Wan's CLIP vision model, ViT-H")


def _check_width(name: str, value: Tensor | None, width: int, title: str, remedy: str) -> None:
    if value is not None and value.shape[-1] != width:
        raise InputError(name, f"vectors of {value.shape[-1]}", f"{title} reads vectors of {width}", remedy)


def encode_picture(model: TalkingModel, image: Tensor, sampler: SamplerConfig) -> Tensor:
    """The latent (C, h, w) of a picture (3, H, W) in 0..1 for models of faces; for Wan's, those (C, F, h, w) of the picture
    and the empty video after it, which is what they were trained to continue."""
    device, dtype, vae = device_of(model.vae), dtype_of(model.vae), model.vae
    load_weights([WeightNeeds(model=model, autoencoder=vae, transformer=False)])
    image = image.to(device, dtype)
    with torch.inference_mode():
        if model.config.framing == "face":
            return vae.encode_image(image)
        count = sampler.clip.latents if sampler.clip else sampler.history.slots if sampler.history else WAN_LATENTS
        empty = torch.full_like(image, 0.5).expand(4, *image.shape)  # one latent's frames at a time: memory stays small
        first, state = vae.encode(image[None], vae.open_encoder())
        parts = [first]
        for _ in range(count - 1):
            part, state = vae.encode(empty, state)
            parts.append(part)
        return torch.cat(parts, 2)[0]
