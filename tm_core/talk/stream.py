"""A scene becomes a stream of latents, and that one of frames: the two steps of a graph that a sink sets going. Paper section 4."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..config import SamplerConfig
from ..errors import InputError
from ..face.life import FaceLife
from ..inputs import VideoFraming, check_options
from ..model.talking import TalkingModel, WeightNeeds
from ..streaming.cache_size import cache_size
from ..streaming.cancel import CancelToken
from ..streaming.clip_sampler import ClipSampler
from ..streaming.compressed_sampler import CompressedSampler
from ..streaming.handles import DecodedStream, DecoderInput, LatentStream
from ..streaming.sampler import ChunkedSampler, LatentChunk, Scene
from ..streaming.workers import WorkerConfig, free_threads
from ..vae.base import StreamingVAE, device_of, dtype_of
from ..vae.rendering import FaceView
from .framing import framed
from .scene import BuiltScene

Sampler = ChunkedSampler | ClipSampler | CompressedSampler


def sampler_of(model: TalkingModel, cfg: SamplerConfig) -> Sampler:
    """The sampler a configuration is for."""
    if cfg.history is not None:
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
    speakers = built.scene.speakers
    decoder = DecoderInput(
        vae=model.vae, reference=built.image, colour_correction=cfg.colour_correction, view=_living(built, seed),
        speaking=speakers[0].speaking if speakers else None)
    if isinstance(sampler, ClipSampler):
        decoder = replace(decoder, motion_frames=sampler.motion_frames, shared=sampler.decoded)
    reserve = cache_size(dit.cfg, cfg, model.config.latent_hw, dit.compute_dtype).total
    return LatentStream(
        _SamplerSource(sampler=sampler, scene=built.scene, seed=seed), built.meta, decoder, device=dit.compute_device,
        needs=partial(_needs, model, reserve), arrival=built.arrival)


def _living(built: BuiltScene, seed: int) -> FaceView | None:
    life = FaceLife(fps=built.meta.fps, seed=seed, eyes=built.eyes)
    return None if built.view is None else replace(built.view, life=life)


def _needs(model: TalkingModel, reserve: int, autoencoder: StreamingVAE) -> WeightNeeds:
    return WeightNeeds(model=model, autoencoder=autoencoder, reserve=reserve)


def decode_stream(
    latents: LatentStream, *, device: str | torch.device | None = None, queue_depth: int = 2, vae: StreamingVAE | None = None,
    blinks: bool = True, framing: VideoFraming = "picture", size: int | None = None, view: FaceView | None = None,
) -> DecodedStream:
    """The frames of sampled latents, decoded when a sink pulls; the eyes close now and then with `blinks`, if they are of one face.

    `device` None: where the model's autoencoder is; `vae`: another one of the same latents, as the fast TAEHV. Models of faces
    draw on the picture: `framing` and `size` as in options.AnimateOptions; `view` in their place is what the face is drawn on.
    """
    if latents.decoder is None:
        raise InputError("latents", "stream", "carries no decoder", "connect the output of the sampler")
    chosen = latents.decoder.vae if vae is None else vae
    target = device_of(chosen) if device is None else parse_device("decode-device", str(device))
    if target != device_of(chosen):
        chosen = copy.deepcopy(chosen).to(target)  # type: ignore[attr-defined]
    decoder = replace(latents.decoder, vae=chosen, reference=latents.decoder.reference.to(target, dtype_of(chosen)))
    if decoder.view is not None:
        seen = view or framed(decoder.view, framing, size)
        decoder = replace(decoder, view=seen if blinks else without_blinks(seen))
    denoise_threads, decode_threads = share_cpu(latents.device, target)
    return DecodedStream(
        latents, decoder, queue_depth=queue_depth,
        denoise_on=WorkerConfig(device=latents.device, threads=denoise_threads),
        decode_on=WorkerConfig(device=target, threads=decode_threads),
    )


def without_blinks(view: FaceView) -> FaceView:
    """The same face, its eyes open and straight."""
    return view if view.life is None else replace(view, life=replace(view.life, eyes=False))


def redrawn(frames: DecodedStream, view: FaceView) -> DecodedStream:
    """The same stream, its face drawn on another picture of it, living as it did."""
    life = None if frames.view is None else frames.view.life
    return frames.on(replace(frames.decoder, view=replace(view, life=life)))


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
