"""A real portrait and real speech from the pack, as a stream of the bundled model through the pipeline that everything uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._gpu.pack import load_pack
from tm_core.config import ModelConfig, SamplerConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.pipeline import FrameChunk
from tm_core.streaming.sampler import ChunkedSampler, LatentChunk, Scene, SpeakerInput
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline
from tm_core.train.dataset import FLOOR, STEP
from tm_core.train.sequences import face_tokens

ROWS_OF_A_FRAME, BEFORE = 4, 11  # feature rows; frames of sound that the first latent sees before its own


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Portrait (3, H, W) in 0..1, what of the picture is the face (S,), log-mel rows (R, M) from BEFORE frames before the video."""

    portrait: Tensor
    mask: Tensor
    rows: Tensor

    def windows(self, latents: range) -> Tensor:
        """(F, W, M): the sound round each latent; after the sound's end its last row."""
        index = torch.tensor(latents)[:, None] * 4 * ROWS_OF_A_FRAME + torch.arange(5 * 4 * ROWS_OF_A_FRAME)
        return self.rows[index.clamp(max=len(self.rows) - 1)]


def load_sample(config: ModelConfig) -> Sample:
    """The pack's first still and first utterance."""
    tensors = load_pack()[0]
    picture = tensors["images"][0].float()[None] / 255
    size = (config.height, config.width)
    portrait = F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)
    rows = tensors["train.rows"].float() * STEP + FLOOR
    quiet = 24 - BEFORE  # frames of the padding that stands before every utterance
    return Sample(portrait=portrait, mask=face_tokens(tensors["points"][0], config), rows=rows[quiet * ROWS_OF_A_FRAME :])


@dataclass(frozen=True, kw_only=True)
class Source:
    """A sampler, a scene and a seed as a LatentStream takes them; `watch` is told each chunk's number before it is sampled."""

    sampler: ChunkedSampler
    scene: Scene
    seed: int = 0
    watch: Callable[[int], None] = lambda chunk: None

    def open(self) -> Any:
        """See ChunkSource."""
        return self.sampler.open(self.scene, self.seed)

    def step(self, state: Any, cancel: CancelToken) -> tuple[LatentChunk, Any]:
        """See ChunkSource."""
        self.watch(state.chunk)
        return self.sampler.step(state, cancel)


def meta_of(config: ModelConfig, cfg: SamplerConfig, chunks: int) -> StreamMeta:
    """Of a stream of whole chunks."""
    timeline = Timeline(fps=config.frame_rate, chunk_latents=cfg.chunk_latents)
    frames = timeline.frames_of_chunk(chunks - 1).stop
    return StreamMeta(
        width=config.width, height=config.height, num_frames=frames, timeline=timeline, audio_s=float(frames / config.frame_rate))


def open_stream(
    model: TalkingModel, sample: Sample, chunks: int, *, chunk_latents: int = 3, seed: int = 0,
    watch: Callable[[int], None] = lambda chunk: None,
) -> LatentStream:
    """A new stream of the model where its weights are."""
    config = model.config
    cfg = replace(config.sampler, chunk_latents=chunk_latents)
    meta, vae = meta_of(config, cfg, chunks), model.vae
    portrait = sample.portrait.to(next(vae.parameters()))  # type: ignore[attr-defined]
    speaker = SpeakerInput(windows=sample.windows, mask=sample.mask, speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    with torch.inference_mode():
        scene = Scene(reference=vae.encode_image(portrait), speakers=(speaker,), frames=meta.num_frames)
    source = Source(sampler=ChunkedSampler(model, cfg), scene=scene, seed=seed, watch=watch)
    return LatentStream(source, meta, DecoderInput(vae=vae, reference=portrait), device=model.dit.compute_device)


def frames_of(
    latents: LatentStream, denoise: str, decode: str, vae: Any = None, cancel: CancelToken | None = None,
    seen: Callable[[FrameChunk], None] = lambda chunk: None,
) -> np.ndarray:
    """All frames (T, H, W, 3) uint8; `vae`: another copy of the autoencoder, on the device `decode`."""
    assert latents.decoder is not None
    decoder = latents.decoder
    if vae is not None:
        decoder = replace(decoder, vae=vae, reference=decoder.reference.to(next(vae.parameters())))
    stream = DecodedStream(
        latents, decoder, denoise_on=WorkerConfig(device=torch.device(denoise)), decode_on=WorkerConfig(device=torch.device(decode)))
    parts = []
    for chunk in stream.chunks(cancel=cancel):
        seen(chunk)
        parts.append(chunk.frames)
    return np.concatenate(parts)


def latents_of(stream: LatentStream) -> Tensor:
    """What the stream sampled (1, C, F, h, w), on the CPU."""
    return torch.cat([chunk.latents.cpu() for chunk in stream], 2)
