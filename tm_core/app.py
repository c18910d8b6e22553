"""From a portrait and a voice to a stream of frames: the functions that the command line and the nodes call.

Each step is one function, so that a node of a graph is one call: `encode_audio`, `prepare_subject`,
`select_speaking`, `build_scene`, `sample_stream`, `decode_stream`; `animate` is all of them. Nothing is
sampled before a sink pulls. Non-goals: writing files (media), asking users (cli, nodes). Paper section 3.

Shapes: F latent frames, T video frames, S tokens, W x M one audio window, H x W pixels.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .audio.features import log_mel
from .audio.silence import speaking_latents
from .audio.windows import windows
from .config import ModelConfig, SamplerConfig
from .errors import InputError
from .face.mask import crop_mask, face_mask, token_mask
from .face.mesh import FaceMesh
from .face.portrait import Portrait, prepare_portrait
from .media.audio_io import Waveform, read_audio
from .media.image_io import open_image
from .streaming.cancel import CancelToken
from .streaming.handles import DecoderInput, FrameStream, LatentStream, StreamMeta
from .streaming.pipeline import WorkerConfig
from .streaming.sampler import ChunkedSampler, LatentChunk, SamplerState, Scene, Speaker
from .timeline import Timeline
from .weights.loading import TalkingModel

log = logging.getLogger(__name__)

SpeakingMode = Literal["auto", "speaking", "listening"]
MAX_SEED, MAX_STEPS = 2**63 - 1, 100


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A sound on the time axis of the video: features (rows, M), and the whole number of frames it fills."""

    waveform: Waveform
    features: np.ndarray
    timeline: Timeline
    config: ModelConfig
    source: Path | None = None  # the file it came from: a saved video carries that sound as it is

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

    def windows(self, latents: range) -> Tensor:
        """Log-mel windows (F, W, M) of these latents, silence outside the sound."""
        return torch.from_numpy(windows(self.features, latents, self.timeline, self.config.audio))


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A voice and when it speaks: flags (F,), True where the lips follow the sound."""

    voice: Voice
    flags: np.ndarray

    def speaking(self, latents: range) -> Tensor:
        """Flags (F,) of these latents; silent outside the sound."""
        inside = [bool(self.flags[i]) if 0 <= i < len(self.flags) else False for i in latents]
        return torch.tensor(inside)


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


def check_options(*, seed: int = 0, steps: int | None = None, speaking: str = "auto", queue_depth: int = 2) -> None:
    """InputError for options out of range: all that can be said before a model or a file is opened."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError("seed", seed, "must be a whole number from 0 to 2^63 - 1", "use 0")
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise InputError("steps", steps, f"must be 1 to {MAX_STEPS}", "leave it out for the number the model was made for")
    if speaking not in get_args(SpeakingMode):
        raise InputError("speaking", speaking, "unknown mode", f"choose one of {', '.join(get_args(SpeakingMode))}")
    if queue_depth < 1:
        raise InputError("queue_depth", queue_depth, "at least one chunk must fit", "use 2")


def timeline_of(config: ModelConfig) -> Timeline:
    """The time axis of a model's streams."""
    stride = config.vae.temporal_stride if config.vae else 4
    return Timeline(fps=config.frame_rate, chunk_latents=config.sampler.chunk_latents, stride=stride)


@lru_cache(maxsize=1)
def face_mesh() -> FaceMesh:
    """The bundled face detector and mesh, loaded once."""
    return FaceMesh()


def encode_audio(waveform: Waveform, config: ModelConfig, source: Path | None = None) -> Voice:
    """Features of a sound; `source` is the file it came from, if any."""
    if len(waveform.samples) == 0:
        raise InputError("audio", source or "waveform", "holds no sound", "give at least one video frame of sound (0.04 s)")
    return Voice(
        waveform=waveform, features=log_mel(waveform.samples, config.audio), timeline=timeline_of(config), config=config,
        source=source,
    )


def select_speaking(voice: Voice, mode: SpeakingMode = "auto", **thresholds: float) -> Speech:
    """When the face speaks: by loudness (`auto`, see audio.silence for the thresholds), always or never."""
    check_options(speaking=mode)
    if mode != "auto":
        return Speech(voice=voice, flags=np.full(voice.num_latents, mode == "speaking"))
    flags = speaking_latents(
        voice.waveform.samples, voice.num_latents, voice.timeline, sample_rate=voice.waveform.sample_rate, **thresholds)
    return Speech(voice=voice, flags=flags)


def prepare_subject(
    rgb: np.ndarray, config: ModelConfig, *, face_index: int | None = None, mask: np.ndarray | None = None,
) -> Subject:
    """The face of a picture (H, W, 3) uint8, cropped to model size; `mask` (any size, 0..1) over the whole
    picture replaces the face region that is found."""
    portrait = prepare_portrait(rgb, config.width, face_mesh(), face_index)
    if mask is None:
        region = face_mask(portrait.landmarks, config.width)
    else:
        region = crop_mask(mask, portrait, rgb.shape[:2])
        if float(region.max(initial=0.0)) <= 0.0:
            raise InputError("mask", "empty", "marks nothing of the face", "paint the mouth region white, or leave the mask out")
    return Subject(portrait=portrait, mask=region)


def build_scene(model: TalkingModel, subject: Subject, speech: Speech) -> BuiltScene:
    """Portrait and voice as the sampler takes them."""
    config = model.config
    size = subject.portrait.image.shape[:2]
    if size != (config.height, config.width):
        raise InputError(
            "portrait", f"{size[1]}x{size[0]}", f"the model draws {config.width}x{config.height}",
            "prepare the portrait with the model that animates it")
    device, dtype = device_of(model.vae), dtype_of(model.vae)
    with torch.inference_mode():
        reference = model.vae.encode_image(subject.image.to(device, dtype))
    voice = speech.voice
    speaker = Speaker(
        windows=voice.windows, speaking=speech.speaking,
        mask=torch.from_numpy(token_mask(subject.mask, config.token_hw)),
    )
    meta = StreamMeta(
        width=config.width, height=config.height, num_frames=voice.num_frames, timeline=voice.timeline,
        audio_s=voice.duration_s, audio=voice.source or voice.waveform,
    )
    return BuiltScene(scene=Scene(reference=reference, speakers=(speaker,), frames=voice.num_frames), image=subject.image, meta=meta)


@dataclass(frozen=True, kw_only=True)
class _SamplerSource:
    """A sampler, a scene and a seed as a LatentStream takes them."""

    sampler: ChunkedSampler
    scene: Scene
    seed: int

    def open(self) -> SamplerState:
        return self.sampler.open(self.scene, self.seed)

    def step(self, state: SamplerState, cancel: CancelToken) -> tuple[LatentChunk, SamplerState]:
        return self.sampler.step(state, cancel)


def schedule(base: SamplerConfig, steps: int | None) -> SamplerConfig:
    """`base` with another number of denoising steps: the same curve of noise levels, sampled at `steps` points."""
    if steps is None or steps == base.num_steps:
        return base
    check_options(steps=steps)
    curve = [*base.sigmas, 0.0]
    at = np.linspace(0.0, base.num_steps, steps + 1)[:-1]
    return replace(base, sigmas=tuple(float(s) for s in np.interp(at, range(len(curve)), curve)))


def sample_stream(model: TalkingModel, built: BuiltScene, *, seed: int = 0, steps: int | None = None) -> LatentStream:
    """The latents of a scene, sampled when a sink pulls; `steps` None: as many as the model was made for."""
    check_options(seed=seed, steps=steps)
    sampler = ChunkedSampler(model, schedule(model.config.sampler, steps))
    source = _SamplerSource(sampler=sampler, scene=built.scene, seed=seed)
    return LatentStream(source, built.meta, DecoderInput(vae=model.vae, reference=built.image))


def decode_stream(latents: LatentStream, *, device: str | torch.device | None = None, queue_depth: int = 2) -> FrameStream:
    """The frames of sampled latents, decoded when a sink pulls; `device` None: where the model is."""
    if latents.decoder is None:
        raise InputError("latents", "stream", "carries no decoder", "connect the output of the sampler")
    vae: Any = latents.decoder.vae
    home = device_of(vae)
    target = home if device is None else parse_device("decode-device", str(device))
    if target != home:
        vae = copy.deepcopy(vae).to(target)
    decoder = DecoderInput(vae=vae, reference=latents.decoder.reference.to(target, dtype_of(vae)))
    denoise_threads, decode_threads = share_cpu(home, target)
    return FrameStream(
        latents, decoder, queue_depth=queue_depth,
        denoise_on=WorkerConfig(device=home, threads=denoise_threads),
        decode_on=WorkerConfig(device=target, threads=decode_threads),
    )


def share_cpu(denoise: torch.device, decode: torch.device) -> tuple[int | None, int | None]:
    """Threads of the CPU for the two workers; None: as torch is set.

    Half each where both compute on the CPU. Measured on two cores that something else used as well: 202 ms a
    chunk with 1 + 1 threads; with 2 + 2, and worse with 2 one after the other, threads wait for one another.
    """
    if denoise.type != "cpu" or decode.type != "cpu":
        return None, None
    half = max(1, torch.get_num_threads() // 2)
    return half, max(1, torch.get_num_threads() - half)


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


def device_of(module: Any) -> torch.device:
    """Where a module's weights are."""
    device: torch.device = next(module.parameters()).device
    return device


def dtype_of(module: Any) -> torch.dtype:
    """The precision of a module's weights."""
    dtype: torch.dtype = next(module.parameters()).dtype
    return dtype


def read_mask(path: Path) -> np.ndarray:
    """A mask image as (H, W) in 0..1, white is what the voice may move; InputError for what is no picture."""
    try:
        picture = open_image(path)
    except InputError as error:
        raise InputError("mask", error.value, error.rule, error.remedy) from error
    return np.asarray(picture.mean(axis=2) / 255.0, np.float32)


def animate(
    image: Path, audio: Path, *, model: TalkingModel, seed: int = 0, steps: int | None = None, face_index: int | None = None,
    mask: Path | None = None, speaking: SpeakingMode = "auto", decode_device: str | None = None, queue_depth: int = 2,
) -> FrameStream:
    """The whole job for files: a stream of frames as long as the sound. InputError for what cannot be used."""
    check_options(seed=seed, steps=steps, speaking=speaking, queue_depth=queue_depth)
    sound, picture = read_audio(audio), open_image(image)
    region = None if mask is None else read_mask(mask)
    subject = prepare_subject(picture, model.config, face_index=face_index, mask=region)
    speech = select_speaking(encode_audio(sound, model.config, audio), speaking)
    latents = sample_stream(model, build_scene(model, subject, speech), seed=seed, steps=steps)
    return decode_stream(latents, device=decode_device, queue_depth=queue_depth)
