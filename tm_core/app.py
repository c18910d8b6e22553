"""From a portrait and a voice to a stream of frames: the functions that the command line and the nodes call.

Each step is one function, so that a node of a graph is one call: `encode_audio`, `prepare_subject`,
`select_speaking`, `build_scene`, `sample_stream`, `decode_stream`; `animate` is all of them. Nothing is
sampled before a sink pulls. Non-goals: writing files (media), asking users (cli, nodes). Paper section 3.

Shapes: F latent frames, T video frames, S tokens, W x M one audio window, H x W pixels.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .audio.families import SpeechFamily, SpeechFeatures
from .audio.features import log_mel
from .audio.hush import Flags, Heard, Hushed, Silence, flags_at
from .audio.long_sound import LongFlags, LongMelFeatures
from .audio.schedule import Schedule, Span, flags_of_spans, spans_of_flags
from .audio.silence import RULE, Levels, SpeakingStream, StretchedSpeaking, check_rule, loudness_db, speaking_latents, warn_if_silent
from .audio.windows import MelFeatures
from .config import ModelConfig, SamplerConfig
from .errors import InputError
from .face.blinks import Blinks, eyes_covered
from .face.choice import prominent
from .face.found import FoundFaces, faces_to_choose_from, shared_mesh
from .face.mask import DEFAULT_FEATHER, crop_mask, face_mask, moved_mask, token_mask
from .face.mesh import FaceMesh
from .face.portrait import Portrait, cut_portrait, frame_picture
from .inputs import MAX_SEED as MAX_SEED
from .inputs import SpeakingMode as SpeakingMode
from .inputs import check_options as check_options
from .media.audio_io import LongWaveform, Waveform, open_audio
from .media.image_io import open_image, open_mask
from .media.sound_reader import SoundSource, SoundTrack
from .model.talking import WeightNeeds, load_weights
from .settings import Choices, settings
from .streaming.cancel import CancelToken
from .streaming.clips import ClipSampler
from .streaming.compressed import CompressedSampler
from .streaming.handles import DecoderInput, FrameStage, FrameStream, LatentStream, StreamMeta
from .streaming.memory import cache_size
from .streaming.sampler import ChunkedSampler, LatentChunk, Scene, Speaker
from .streaming.workers import WorkerConfig, free_threads
from .timeline import Timeline
from .vae.base import StreamingVAE, device_of, dtype_of
from .weights.families import FAMILIES
from .weights.loading import TalkingModel

log = logging.getLogger(__name__)

WAN_LATENTS = 21  # that Wan was trained on at a time: what its picture of a still beginning covers


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A sound on the time axis of the video, what a model hears of it, and the whole number of frames it fills."""

    waveform: Waveform | LongWaveform
    features: Heard
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


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A voice and when it speaks: flags (F,), True where the lips follow the sound.

    `silence`: what the model hears elsewhere. zero: no sound at all, the zero embedding. real: windows of digital silence,
    which `voice` then has there.
    """

    voice: Voice
    flags: Flags
    silence: Silence = "zero"

    def __post_init__(self) -> None:
        plain = _plain(self.voice)
        own = replace(plain, features=Hushed(sound=plain, flags=self.flags)) if self.silence == "real" else plain
        object.__setattr__(self, "voice", own)

    def lasting(self, seconds: float) -> Speech:
        """The same speech, followed by listening until `seconds`."""
        plain = _plain(self.voice)
        sound = plain.waveform
        missing = round(seconds * sound.sample_rate) - sound.num_samples
        if missing <= 0:
            return self
        if isinstance(sound, LongWaveform):
            return replace(self, voice=replace(plain, waveform=replace(sound, num_samples=sound.num_samples + missing)))
        longer = Waveform(samples=np.concatenate([sound.samples, np.zeros(missing, np.float32)]), sample_rate=sound.sample_rate)
        return replace(self, voice=replace(plain, waveform=longer))

    @property
    def spans(self) -> tuple[Span, ...]:
        """The seconds of the video in which it speaks."""
        return spans_of_flags(np.asarray(self.flags), self.voice.timeline)

    def speaking(self, latents: range) -> Tensor:
        """Which of these latents hear their windows (F,); with zero silence those that speak, none outside the sound."""
        return torch.ones(len(latents), dtype=torch.bool) if self.silence == "real" else flags_at(self.flags, latents)


def _plain(voice: Voice) -> Voice:
    """A voice as it was before a speech put silence into it."""
    heard = voice.features
    return heard.sound if isinstance(heard, Hushed) and isinstance(heard.sound, Voice) else voice


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom to animate: the portrait at model size and the mask (H, W) of what the voice may move."""

    portrait: Portrait
    mask: np.ndarray

    @property
    def image(self) -> Tensor:
        """The portrait (3, H, W) in 0..1."""
        return torch.from_numpy(self.portrait.image.copy()).permute(2, 0, 1).float().div(255.0)


@dataclass(frozen=True, kw_only=True)
class BuiltScene:
    """What the sampler needs, what the decoder needs and what a sink needs."""

    scene: Scene
    image: Tensor  # (3, H, W) in 0..1
    meta: StreamMeta
    sampler: SamplerConfig
    face: np.ndarray | None = None  # landmarks (468, 3) where the model draws one face


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What open checkpoints are told besides the sound: text (1, L, text_dim), the negative one, CLIP tokens (1, 257, image_dim)."""

    text: Tensor | None = None
    negative: Tensor | None = None
    image: Tensor | None = None


def timeline_of(config: ModelConfig, sampler: SamplerConfig | None = None) -> Timeline:
    """The time axis of a model's streams; `sampler` where it is not sampled as its configuration says."""
    stride = config.vae.temporal_stride if config.vae else 4
    sampler = sampler or config.sampler
    make = partial(Timeline, fps=config.frame_rate, stride=stride)
    if sampler.memory is not None:
        return make(chunk_latents=sampler.memory.chunk_latents, first_latents=sampler.memory.first_latents)
    if sampler.clip is not None:
        return make(chunk_latents=sampler.clip.latents - sampler.clip.repeated_latents, first_latents=sampler.clip.latents)
    return make(chunk_latents=sampler.chunk_latents)


def face_mesh() -> FaceMesh:
    """The bundled face detector and mesh, loaded once."""
    return shared_mesh()


def encode_audio(
    waveform: Waveform | LongWaveform, config: ModelConfig, source: SoundSource | None = None, speech: Tensor | None = None,
) -> Voice:
    """Features of a sound; `source` is the file it came from, if any.

    `speech`: what an open checkpoint's own encoder made of the sound (audio.families: encode_speech, from_host). InputError
    where it is missing, or given to a model that hears log-mel.
    """
    if waveform.num_samples == 0:
        raise InputError("audio", source or "waveform", "holds no sound", "give at least one video frame of sound (0.04 s)")
    timeline = timeline_of(config)
    family = hearing(config, encoded=speech is not None)
    features: Heard
    if isinstance(waveform, LongWaveform) and (family is None or speech is None):
        features = LongMelFeatures(waveform, timeline, config.audio)
    elif family is None or speech is None:
        features = MelFeatures(rows=log_mel(waveform.samples, config.audio), timeline=timeline, cfg=config.audio)
    else:
        features = SpeechFeatures(values=speech, family=family, frames=timeline.num_frames(waveform.duration_s))
    return Voice(waveform=waveform, features=features, timeline=timeline, source=source)


def hearing(config: ModelConfig, *, encoded: bool) -> SpeechFamily | None:
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


def select_speaking(
    voice: Voice, mode: SpeakingMode = "auto", *, silence: Silence = "zero", schedule: Schedule | None = None, name: str = "",
    **thresholds: Any,
) -> Speech:
    """When the face speaks: by loudness (`auto`, see audio.silence for the thresholds), always or never.

    `schedule`: instead, in the turns of `name`, which may be left out where it is the only one. InputError for a name or a turn
    that does not fit.
    """
    check_options(speaking=mode)
    if silence not in get_args(Silence):
        raise InputError("silence", silence, "unknown kind of silence", f"choose one of {', '.join(get_args(Silence))}")
    flags: Flags
    if schedule is not None:
        own = schedule.inside(name or _only(schedule), voice.duration_s)
        flags = flags_of_spans(own, voice.num_latents, voice.timeline)
    elif mode != "auto":
        flags = np.full(voice.num_latents, mode == "speaking")
    else:
        flags = _heard_flags(voice, **thresholds)
    return Speech(voice=voice, flags=flags, silence=silence)


def _heard_flags(voice: Voice, levels: Levels = "relative", **rule: Any) -> Flags:
    """Flags (F,) by loudness; of a long sound, found as they are asked for."""
    sound, timeline = voice.waveform, voice.timeline
    if isinstance(sound, LongWaveform):
        check_rule(**{**RULE, **rule}, levels=levels)
        stream = StretchedSpeaking if levels == "relative" else SpeakingStream
        return LongFlags(sound, voice.num_latents, partial(stream, timeline, sample_rate=sound.sample_rate, **{**RULE, **rule}))
    flags = speaking_latents(sound.samples, voice.num_latents, timeline, sample_rate=sound.sample_rate, levels=levels, **rule)
    if not flags.any():
        warn_if_silent(False, float(loudness_db(sound.samples, sound.sample_rate).max()))
    return flags


def _only(schedule: Schedule) -> str:
    if len(schedule.names) != 1:
        raise InputError("name", "nothing", f"the timeline names {', '.join(schedule.names)}", "say which of them this voice is")
    return schedule.names[0]


def prepare_subject(
    rgb: np.ndarray, config: ModelConfig, *, face_index: int | None = None, mask: np.ndarray | None = None,
    faces: FoundFaces | None = None,
) -> Subject:
    """Whom to animate in a picture (H, W, 3) uint8, at model size.

    Models of faces get a crop round the face and its region; open checkpoints the picture, and the whole of it as the region
    unless it shows several faces. `mask` (any size, 0..1) over the whole picture replaces the region that is found; `faces`
    are those of the picture where they were looked for before, small or turned ones too.
    """
    faces = faces or faces_to_choose_from(rgb, face_index)
    if config.framing == "picture":
        return _picture_subject(rgb, config, face_index, mask, faces)
    portrait = cut_portrait(rgb, config.width, faces.face(rgb, face_index))
    region = face_mask(portrait.landmarks, config.width) if mask is None else _own_mask(mask, portrait, rgb)
    return Subject(portrait=portrait, mask=region)


def _own_mask(mask: np.ndarray, portrait: Portrait, rgb: np.ndarray) -> np.ndarray:
    region = crop_mask(mask, portrait, rgb.shape[:2])
    if float(region.max(initial=0.0)) <= 0.0:
        raise InputError("mask", "empty", "marks nothing of the face", "paint the mouth region white, or leave the mask out")
    return region


def _picture_subject(
    rgb: np.ndarray, config: ModelConfig, face_index: int | None, mask: np.ndarray | None, faces: FoundFaces,
) -> Subject:
    size = config.width, config.height
    large = prominent(faces.faces)
    free = face_index is None and (mask is not None or len(large) < 2)
    chosen = large if free else [faces.face(rgb, face_index)]  # says which faces there are, if none was chosen
    portrait = frame_picture(rgb, size, chosen)
    if mask is not None:
        return Subject(portrait=portrait, mask=_own_mask(mask, portrait, rgb))
    if len(large) > 1 or (large and chosen[0] is not large[0]):
        extent = np.ptp(portrait.landmarks[:, 1]) / config.width
        return Subject(portrait=portrait, mask=face_mask(portrait.landmarks, size, float(DEFAULT_FEATHER * extent)))
    return Subject(portrait=portrait, mask=np.ones((config.height, config.width), np.float32))


def build_scene(
    model: TalkingModel, subject: Subject, speech: Speech, *, others: Sequence[tuple[Subject, Speech]] = (),
    choices: Choices | None = None, prompt: Prompt | None = None,
) -> BuiltScene:
    """Portrait, voice and prompt as the sampler takes them; InputError for what does not fit this model.

    `others`: who else speaks in the same picture, each with a mask of their own. The video is as long as the first voice, and
    shows what the first portrait does: of the others, the masks count.
    """
    config, prompt, voice = model.config, prompt or Prompt(), speech.voice
    sampler = settings(config, choices or Choices())
    check_prompt(config, sampler, prompt)
    speakers = tuple(_speaker(config, sampler, subject.portrait, *member) for member in [(subject, speech), *others])
    meta = StreamMeta(
        width=config.width, height=config.height, num_frames=voice.num_frames, timeline=timeline_of(config, sampler),
        audio_s=voice.duration_s, audio=voice.sound)
    scene = Scene(
        reference=encode_picture(model, subject.image, sampler), speakers=speakers, frames=voice.num_frames, picture=subject.image,
        text=prompt.text, image=prompt.image, negative=prompt.negative)
    face = subject.portrait.landmarks if config.framing == "face" else None
    return BuiltScene(scene=scene, image=subject.image, meta=meta, sampler=sampler, face=face)


def _speaker(config: ModelConfig, sampler: SamplerConfig, frame: Portrait, subject: Subject, speech: Speech) -> Speaker:
    size = subject.portrait.image.shape[:2]
    if size != (config.height, config.width):
        raise InputError(
            "portrait", f"{size[1]}x{size[0]}", f"the model draws {config.width}x{config.height}",
            "prepare the portrait with the model that animates it")
    mask = moved_mask(subject.mask, subject.portrait.box, frame.box)
    if mask is not subject.mask and float(mask.max()) <= 0:
        raise InputError(
            "portrait", "a speaker", "is outside the part of the picture that the model shows", "choose a size of the picture's shape")
    return Speaker(
        windows=partial(speech.voice.windows, each_clip=sampler.clip is not None), speaking=speech.speaking,
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
        count = sampler.clip.latents if sampler.clip else sampler.memory.slots if sampler.memory else WAN_LATENTS
        empty = torch.full_like(image, 0.5).expand(4, *image.shape)  # one latent's frames at a time: memory stays small
        first, state = vae.encode(image[None], vae.open_encoder())
        parts = [first]
        for _ in range(count - 1):
            part, state = vae.encode(empty, state)
            parts.append(part)
        return torch.cat(parts, 2)[0]


Sampler = ChunkedSampler | ClipSampler | CompressedSampler


def sampler_of(model: TalkingModel, cfg: SamplerConfig) -> Sampler:
    """The sampler a configuration is for."""
    if cfg.memory is not None:
        return CompressedSampler(model, cfg)
    return ChunkedSampler(model, cfg) if cfg.clip is None else ClipSampler(model, cfg)


@dataclass(frozen=True, kw_only=True)
class _SamplerSource:
    """A sampler, a scene and a seed as a LatentStream takes them."""

    sampler: Sampler
    scene: Scene
    seed: int

    def open(self) -> Any:
        return self.sampler.open(self.scene, self.seed)

    def step(self, state: Any, cancel: CancelToken) -> tuple[LatentChunk, Any]:
        return self.sampler.step(state, cancel)


def sample_stream(model: TalkingModel, built: BuiltScene, *, seed: int = 0) -> LatentStream:
    """The latents of a scene, sampled when a sink pulls."""
    check_options(seed=seed)
    cfg, dit = built.sampler, model.dit
    sampler = sampler_of(model, cfg)
    decoder = DecoderInput(
        vae=model.vae, reference=built.image, colour_correction=cfg.colour_correction,
        stages=_stages(built, seed))
    if isinstance(sampler, ClipSampler):
        decoder = replace(decoder, motion_frames=sampler.motion_frames, shared=sampler.decoded)
    reserve = cache_size(dit.cfg, cfg, model.config.width, model.config.height, dit.compute_dtype).total
    return LatentStream(
        _SamplerSource(sampler=sampler, scene=built.scene, seed=seed), built.meta, decoder, device=dit.compute_device,
        needs=partial(_needs, model, reserve))


def _stages(built: BuiltScene, seed: int) -> tuple[FrameStage, ...]:
    """What is drawn on decoded frames: blinks of one face whose eyes can be seen, decided once, so that no lid flickers."""
    if built.face is None or eyes_covered(built.image.permute(1, 2, 0).mul(255).cpu().numpy(), built.face):
        return ()
    return (Blinks(mesh=face_mesh(), fps=built.meta.fps, seed=seed, hint=built.face),)


def _needs(model: TalkingModel, reserve: int, autoencoder: StreamingVAE) -> WeightNeeds:
    return WeightNeeds(model=model, autoencoder=autoencoder, reserve=reserve)


def decode_stream(
    latents: LatentStream, *, device: str | torch.device | None = None, queue_depth: int = 2, vae: StreamingVAE | None = None,
    blinks: bool = True,
) -> FrameStream:
    """The frames of sampled latents, decoded when a sink pulls; with `blinks` (face.blinks), if they are of one face.

    `device` None: where the model's autoencoder is; `vae`: another one of the same latents, as the fast TAEHV.
    """
    if latents.decoder is None:
        raise InputError("latents", "stream", "carries no decoder", "connect the output of the sampler")
    chosen = latents.decoder.vae if vae is None else vae
    target = device_of(chosen) if device is None else parse_device("decode-device", str(device))
    if target != device_of(chosen):
        chosen = copy.deepcopy(chosen).to(target)  # type: ignore[attr-defined]
    decoder = replace(latents.decoder, vae=chosen, reference=latents.decoder.reference.to(target, dtype_of(chosen)))
    if not blinks:
        decoder = replace(decoder, stages=tuple(stage for stage in decoder.stages if not isinstance(stage, Blinks)))
    denoise_threads, decode_threads = share_cpu(latents.device, target)
    return FrameStream(
        latents, decoder, queue_depth=queue_depth,
        denoise_on=WorkerConfig(device=latents.device, threads=denoise_threads),
        decode_on=WorkerConfig(device=target, threads=decode_threads),
    )


def share_cpu(denoise: torch.device, decode: torch.device) -> tuple[int | None, int | None]:
    """Threads of the CPU for the two workers; None: as torch is set.

    Half each where both compute on the CPU. Measured on two cores that something else used as well: 202 ms a
    chunk with 1 + 1 threads; with 2 + 2, and worse with 2 one after the other, threads wait for one another.
    """
    if denoise.type != "cpu" or decode.type != "cpu":
        return None, None
    threads = free_threads()
    half = max(1, threads // 2)
    return half, max(1, threads - half)


def parse_device(field: str, name: str) -> torch.device:
    """A device this machine has; `auto` is the first GPU, or the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(field, name, "this machine has no such device", "use cpu, or see `talking-machines doctor`") from error
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def animate(
    image: Path, audio: Path, *, model: TalkingModel, seed: int = 0, steps: int | None = None, face_index: int | None = None,
    faces: FoundFaces | None = None,
    mask: Path | None = None, speaking: SpeakingMode = "auto", decode_device: str | None = None, queue_depth: int = 2,
    blinks: bool = True, track: int | None = None, choices: Choices | None = None,
    hear: Callable[[Waveform | LongWaveform], Tensor | None] | None = None, told: Callable[[Subject], Prompt] | None = None,
) -> FrameStream:
    """The whole job for files: a stream of frames as long as the sound. InputError for what cannot be used.

    Open checkpoints only: `hear` makes of a sound what the model's own encoder does (see encode_audio), `told` the prompt
    for a portrait. `steps` counts before those of `choices`; `track` is one of the file's sound tracks, from 0;
    `faces` as in `prepare_subject`.
    """
    check_options(seed=seed, steps=steps, speaking=speaking, queue_depth=queue_depth)
    source = audio if track is None else SoundTrack(path=audio, track=track)
    sound, picture = open_audio(source), open_image(image)
    region = None if mask is None else open_mask(mask)
    subject = prepare_subject(picture, model.config, face_index=face_index, mask=region, faces=faces)
    voice = encode_audio(sound, model.config, source, None if hear is None else hear(sound))
    chosen = choices or Choices()
    built = build_scene(
        model, subject, select_speaking(voice, speaking), choices=replace(chosen, steps=steps or chosen.steps),
        prompt=None if told is None else told(subject))
    latents = sample_stream(model, built, seed=seed)
    return decode_stream(latents, device=decode_device, queue_depth=queue_depth, blinks=blinks)
