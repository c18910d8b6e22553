"""What training needs of a kept clip, computed once: latents, log-mel rows, masks, flags.

The fields are those of generated clips (train/sequences.py), so that both can stand in one batch. Shapes: T frames = 1 + 4k,
F latents, C channels, h x w latent grid, S tokens, R rows of M mel bands, H x W pixels.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from ...audio.features import log_mel
from ...audio.silence import speaking_latents
from ...config import ModelConfig
from ...face.mask import face_mask, token_mask
from ...face.topology import CHIN, FOREHEAD, INNER_LIPS
from ...metrics.lip_sync import lip_gap
from ...timeline import Timeline
from ...vae.tiny import TinyVAE
from ..dataset import FLOOR, STEP
from .motion import RIGID

BEFORE, AFTER = 11, 8  # frames of sound kept before the first and after the last: the audio windows of their latents
MARGIN = 1  # frame more for the spectrum's reach
LIDS = ((159, 145), (386, 374))  # upper and lower, both eyes
LIDS_AROUND = ((246, 161, 160, 159, 158, 157, 173), (466, 388, 387, 386, 385, 384, 398))
OPENS = 0.2  # of the lips' range above rest: above it they speak
BLINK = 0.6  # of the usual opening of the lids: below it the eyes are closing


def timeline_of(model: ModelConfig) -> Timeline:
    """The time axis of a model's clips."""
    return Timeline(fps=model.frame_rate, chunk_latents=model.sampler.chunk_latents)


def sound_range(start: int, frames: int, model: ModelConfig) -> tuple[int, int]:
    """Samples (first, end) that the rows of a clip of `frames` ticks from `start` need."""
    per_frame = model.audio.sample_rate // model.fps
    return (start - BEFORE - MARGIN) * per_frame, (start + frames + AFTER + MARGIN) * per_frame


def clip_samples(samples: np.ndarray, model: ModelConfig) -> np.ndarray:
    """The clip's own sound of a `sound_range`."""
    per_frame = model.audio.sample_rate // model.fps
    return samples[(BEFORE + MARGIN) * per_frame : len(samples) - (AFTER + MARGIN) * per_frame]


def rows_of(samples: np.ndarray, model: ModelConfig) -> np.ndarray:
    """(R, M) uint8 rows of a `sound_range`: from BEFORE frames before the clip to AFTER after it, quantised."""
    rows = log_mel(samples, model.audio)[4 * MARGIN : len(samples) // model.audio.hop - 4 * MARGIN]
    return np.asarray(np.clip(np.round((rows - FLOOR) / STEP), 0, 255), np.uint8)


def latents_of(frames: np.ndarray, vae: TinyVAE) -> Tensor:
    """(C, F, h, w) float16 of frames (T, H, W, 3) uint8."""
    with torch.inference_mode():
        return vae.encode(as_tensor(frames).to(vae.shift), vae.open_encoder())[0][0].half().cpu()


def still_latent(frame: np.ndarray, vae: TinyVAE) -> Tensor:
    """(C, h, w) of a still picture (H, W, 3) uint8."""
    with torch.inference_mode():
        return vae.encode_image(as_tensor(frame[None])[0].to(vae.shift)).float().cpu()


def as_tensor(frames: np.ndarray) -> Tensor:
    """(T, 3, H, W) in 0..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def reference_frame(landmarks: np.ndarray) -> int:
    """The frame most like a portrait: lips together, eyes open, head near where the clip begins; landmarks (T, 468, 3)."""
    flat = landmarks[..., :2].astype(np.float64)
    extent = float(np.median((flat.max(1) - flat.min(1)).max(1)))
    head = flat[:, RIGID].mean(1)
    away = np.linalg.norm(head - head[0], axis=1) / extent
    lids = sum(np.linalg.norm(flat[:, a] - flat[:, b], axis=1) for a, b in LIDS)
    blinks = lids < BLINK * np.median(lids)
    return int((lip_gap(landmarks) + 0.5 * away + blinks).argmin())


def speaking_flags(landmarks: np.ndarray, samples: np.ndarray, model: ModelConfig) -> np.ndarray:
    """(F,) bool: speech is heard and the lips do not rest, each within a latent of it (paper section 3: Silence otherwise)."""
    timeline = timeline_of(model)
    count = timeline.num_latents(len(landmarks))
    heard = speaking_latents(samples, count, timeline, sample_rate=model.audio.sample_rate)
    gap = lip_gap(landmarks)
    rest, wide = np.percentile(gap, 5), np.percentile(gap, 95)
    opened = gap > rest + OPENS * (wide - rest)
    moving = np.array([opened[timeline.frames_of_latent(i).start : timeline.frames_of_latent(i).stop].any() for i in range(count)])
    near = np.convolve(moving, np.ones(3), "same") > 0
    return np.asarray(heard & near)


def face_tokens(landmarks: np.ndarray, model: ModelConfig) -> np.ndarray:
    """(S,) float32: share of each token in the face, as when the model runs; landmarks (468, 3) in the crop."""
    return token_mask(face_mask(landmarks, model.height), model.token_hw)


def loss_weight(landmarks: np.ndarray, model: ModelConfig) -> np.ndarray:
    """(h, w) float32: 1, more on the eyes, most on the mouth and jaw, as in train/sequences.py."""
    height, width = model.latent_hw
    y, x = np.meshgrid((np.arange(height) + 0.5) * 8 - 0.5, (np.arange(width) + 0.5) * 8 - 0.5, indexing="ij")
    grid = np.stack([x, y], -1)
    tall = float(np.linalg.norm(landmarks[CHIN, :2] - landmarks[FOREHEAD, :2]))

    def blob(indices: tuple[int, ...], reach: float) -> np.ndarray:
        away = ((grid - landmarks[list(indices), :2].mean(0)) ** 2).sum(-1) / (reach * tall) ** 2
        return np.asarray(np.exp(-(away**2)))

    eyes = blob(LIDS_AROUND[0], 0.13) + blob(LIDS_AROUND[1], 0.13)
    return np.asarray(1 + 12 * blob(INNER_LIPS, 0.28) + 2 * eyes, np.float32)


def weights_hash(module: nn.Module) -> str:
    """Twelve digits that change with a module's weights: latents of another autoencoder are stale."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.startswith("mouth."):
            continue  # of TinyVAE: it makes no latents
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
