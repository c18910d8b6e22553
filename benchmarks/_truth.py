"""The clip that the training data's generator draws of a portrait and a sound: what every model is compared with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import ROOT
from benchmarks._corpus import Face, Sound
from tm_core import talk
from tm_core.audio.features import log_mel
from tm_core.config import AudioConfig
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.metrics.lip_sync import lip_gap
from tm_core.train.dataset import TEXTURE, draw_clip, level, mouth_shapes, normalised
from tm_core.train.still_heads import Heads, fit_head
from tm_core.train.visemes import life, mouth_weights

MOTION = 0.3  # of the head; a still head would flatter a measure of lips


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A video (T, H, W, 3) uint8 and its landmarks (T, 468, 3)."""

    frames: np.ndarray
    landmarks: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """(T,) lip gap."""
        return lip_gap(self.landmarks)


def corpus_folder() -> Path:
    """Where the corpora lie: TM_CORPUS, or build/corpus."""
    return Path(os.environ.get("TM_CORPUS", ROOT / "build" / "corpus"))


def look_at(frames: np.ndarray) -> Seen:
    """A video with its landmarks."""
    return Seen(frames=frames, landmarks=talk.face_mesh().landmarks_batch(frames))


def waveform(sound: Sound) -> Waveform:
    """A sound as the engine takes it."""
    return Waveform(samples=sound.samples)


def true_clip(face: Face, sound: Sound, frames: int, fps: float, side: int, seed: int = 0) -> np.ndarray:
    """The generator's clip (T, H, W, 3) uint8; `seed` chooses head motion, blinks and brows."""
    mouth = mouth_weights([(p.name, p.start, p.end) for p in sound.phones], sound.samples, frames, fps)
    rest = life(level(_rows(sound, frames)), fps, np.random.default_rng(seed), MOTION)
    with torch.inference_mode():
        drawn = draw_clip(_head(face), torch.from_numpy(np.concatenate([mouth, rest], 1)), side)
    return drawn.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def still_clip(face: Face, frames: int, side: int) -> np.ndarray:
    """The portrait itself (T, H, W, 3) uint8, `frames` times."""
    crop = crop_portrait(open_image(face.path), side, talk.face_mesh()).image
    return np.repeat(crop[None], frames, 0)


def rest_gap(face: Face, side: int) -> float:
    """Lip gap of the portrait, as the mesh sees it at this size: lips have a thickness."""
    return float(look_at(still_clip(face, 2, side)).gap[0])


@lru_cache(maxsize=16)
def _head(face: Face) -> Heads:
    portrait = crop_portrait(open_image(face.path), TEXTURE, talk.face_mesh())
    texture = torch.from_numpy(portrait.image.copy()).permute(2, 0, 1).float() / 255
    return fit_head(texture, torch.from_numpy(normalised(portrait.landmarks, TEXTURE)), torch.from_numpy(mouth_shapes()))


def _rows(sound: Sound, frames: int) -> np.ndarray:
    """Log-mel rows (4T, M) of the clip's frames."""
    rows = log_mel(sound.samples, AudioConfig())[: 4 * frames]
    return np.pad(rows, ((0, 4 * frames - len(rows)), (0, 0)), mode="edge")
