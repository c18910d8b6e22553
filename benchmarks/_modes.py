"""Both ways of sampling as streams, and each written out as a whole: what `bench memory` runs long and compares.

The bundled network in both: it was not trained on clips, which changes neither what is kept nor what is equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import demo_portrait, speech_of
from benchmarks.parity import SEED, built_scene, stream, whole_sequence
from tm_core import talk
from tm_core.config import ClipConfig
from tm_core.media.image_io import open_image
from tm_core.model.conditioning import make_reference
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.clip_sampler import ClipSampler, ClipState
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream
from tm_core.streaming.sampler import LatentChunk, Scene, chunk_noise
from tm_core.streaming.workers import WorkerConfig, to_uint8
from tm_core.timeline import Timeline
from tm_core.vae.base import device_of

CLIP = ClipConfig(latents=4, motion_latents=2)  # 13 frames, 5 of them the clip's before
WHOLE = 5  # chunks or clips that are compared


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Clips as a LatentStream takes them."""

    sampler: ClipSampler
    scene: Scene

    def open(self) -> ClipState:
        return self.sampler.open(self.scene, SEED)

    def step(self, state: ClipState, cancel: CancelToken) -> tuple[LatentChunk, ClipState]:
        return self.sampler.step(state, cancel)


def built(model: TalkingModel, seconds: float) -> talk.BuiltScene:
    """The bundled portrait and speech, that long; with the picture a clip is decoded over."""
    subject = talk.prepare_portrait(open_image(demo_portrait()), model.config)
    scene = talk.build_scene(model, subject, talk.select_speaking(talk.encode_audio(speech_of(seconds), model.config)))
    return replace(scene, scene=replace(scene.scene, picture=scene.image))


def clip_sampler(model: TalkingModel) -> ClipSampler:
    """The bundled network in clips."""
    return ClipSampler(model, replace(model.config.sampler, clip=CLIP))


def chunk_frames(model: TalkingModel, seconds: float) -> DecodedStream:
    """A stream under the sparse causal mask."""
    return talk.decode_stream(talk.sample_stream(model, built(model, seconds), seed=SEED))


def clip_frames(model: TalkingModel, seconds: float) -> DecodedStream:
    """A stream of clips under full attention."""
    scene, sampler = built(model, seconds), clip_sampler(model)
    timeline = Timeline(
        fps=scene.meta.timeline.fps, chunk_latents=CLIP.latents - CLIP.motion_latents, first_latents=CLIP.latents)
    decoder = DecoderInput(vae=model.vae, reference=scene.image, motion_frames=sampler.motion_frames)
    latents = LatentStream(ClipSource(sampler=sampler, scene=scene.scene), replace(scene.meta, timeline=timeline), decoder)
    home = device_of(model.vae)
    threads = talk.share_cpu(home, home)
    return DecodedStream(
        latents, decoder, denoise_on=WorkerConfig(device=home, threads=threads[0]), decode_on=WorkerConfig(device=home, threads=threads[1]))


MODES = {"sparse causal chunks": chunk_frames, "clips under full attention": clip_frames}


@torch.inference_mode()
def chunks_against_whole(model: TalkingModel) -> float:
    """Largest difference of latents: chunk by chunk, and one masked sequence."""
    scene = built_scene(model).scene
    streamed = torch.cat(list(stream(model, scene, WHOLE)), 2)
    return (streamed - whole_sequence(model, scene, WHOLE)).abs().max().item()


@torch.inference_mode()
def clips_against_whole(model: TalkingModel) -> tuple[float, int]:
    """Largest difference of latents from the loop written out over the whole sound, and of shown frames in levels of 255."""
    sampler = clip_sampler(model)
    new = CLIP.latents - CLIP.motion_latents
    frames = 1 + 4 * (CLIP.latents - 1) + 4 * new * (WHOLE - 1)
    scene, stepped, state = built(model, frames / model.config.fps).scene, list[Tensor](), None
    for _ in range(WHOLE):
        chunk, state = sampler.step(state or sampler.open(scene, SEED))
        stepped.append(chunk.latents)
    latents, shown = whole_clips(model, scene, range(CLIP.latents + new * (WHOLE - 1)))
    streamed = np.concatenate([chunk.frames for chunk in clip_frames(model, frames / model.config.fps).chunks()])
    levels = np.abs(streamed.astype(int) - to_uint8(shown)[: len(streamed)].astype(int)).max()
    assert len(streamed) == frames
    return max((a - b).abs().max().item() for a, b in zip(stepped, latents, strict=True)), int(levels)


def whole_clips(model: TalkingModel, scene: Scene, latents: range) -> tuple[list[Tensor], Tensor]:
    """Every clip's latents and all shown frames (T, 3, H, W), the sound heard once for all."""
    speaker, cfg, vae = scene.speakers[0], model.config.sampler, model.vae
    windows, speaking = speaker.windows(latents), speaker.speaking(latents)
    lead, new, made, shown = scene.reference[None, :, None], CLIP.latents - CLIP.motion_latents, list[Tensor](), list[Tensor]()
    for clip, start in enumerate(range(0, len(latents) - CLIP.latents + 1, new)):
        part = slice(start, start + CLIP.latents)
        x = _sampled(model, scene, windows[part], speaking[part], clip, lead, cfg.sigmas)
        frames, _ = vae.decode(x, vae.open_decoder(scene.picture))
        repeated = 1 + 4 * (CLIP.motion_latents - 1)
        shown.append(frames[repeated if clip else 0 :])
        lead, _ = vae.encode(frames[-repeated:], vae.open_encoder())
        made.append(x)
    return made, torch.cat(shown)


def _sampled(
    model: TalkingModel, scene: Scene, windows: Any, speaking: Tensor, clip: int, lead: Tensor, sigmas: tuple[float, ...],
) -> Tensor:
    """One clip: the leading latents stand clean in front of noise at every step."""
    cfg = model.config.dit
    assert model.projector is not None
    audio = model.projector.project(windows, speaking, torch.empty(0)).tokens[None]
    given: dict[str, Any] = {
        "reference": make_reference(scene.reference[None], list(range(CLIP.latents))), "text": torch.zeros(1, cfg.text_len, cfg.text_dim),
        "audio": audio, "face_mask": scene.speakers[0].mask[None]}
    count = lead.shape[2]

    def noise(step: int) -> Tensor:
        return chunk_noise(SEED, clip, step, (1, cfg.out_dim, CLIP.latents, *lead.shape[3:]))

    x = torch.cat([lead, noise(0)[:, :, count:]], 2)
    for i, (sigma, after) in enumerate(zip(sigmas, (*sigmas[1:], 0.0), strict=True)):
        x0 = model.dit.forward_x0(x, torch.tensor([sigma]), **given)
        mixed = (1 - after) * x0 + after * noise(i + 1) if after else x0
        x = torch.cat([lead, mixed[:, :, count:]], 2)
    return x


def frames_of(model: TalkingModel, mode: str, seconds: float) -> Iterator[float]:
    """Seconds of video shown so far, after each chunk of a stream that nobody keeps."""
    for chunk in MODES[mode](model, seconds).chunks():
        yield float((chunk.pts + len(chunk.frames)) * chunk.time_base)
