"""Kept clips on disk: one safetensors file each, with the crop as a video beside it to look at (and to encode anew).

A clip is there when its safetensors file is: the video is written first, both under another name until they are whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import InputError
from ...media.audio_io import Waveform
from ...media.video_io import VideoWriter
from ...metrics.phones import Phone
from ...weights.files import save_tensors
from ..dataset import FLOOR, STEP
from ..sequences import EncodedClip

METADATA = "talking_machines_footage"
FOLDER = "clips"
CRF = 12  # of the crop's video: visually without loss


@dataclass(frozen=True, kw_only=True)
class FootageClip:
    """One kept clip of F latents; T = 4F - 3 frames."""

    latents: Tensor  # (C, F, h, w) float16, of the autoencoder `vae`
    reference: Tensor  # (C, h, w) latent of the portrait
    weight: Tensor  # (h, w) of the loss
    face_mask: Tensor  # (S,)
    rows: Tensor  # (16 F + 64, M) uint8 log-mel rows, from 11 frames before the first to 8 after the last
    speaking: Tensor  # (F,) bool: speech is heard and the lips follow it
    portrait: Tensor  # (3, H, W) uint8, the frame most like a portrait
    landmarks: Tensor  # (T, 468, 3) float16 in the crop's pixels
    name: str
    source: str  # path in the folder that was prepared
    start_s: float  # in the source
    end_s: float
    fps: Fraction  # of this clip
    vae: str  # weights_hash of the autoencoder
    listens: bool  # a Silence clip: the lips rest throughout
    phones: tuple[Phone, ...] | None  # seconds from the clip's start; None: nobody listened
    measures: Mapping[str, Any]
    video: Path | None = None  # the crop with its sound

    @property
    def duration_s(self) -> float:
        """Length of the clip in seconds."""
        return self.end_s - self.start_s


TENSORS = ("latents", "reference", "weight", "face_mask", "rows", "speaking", "portrait", "landmarks")


def as_training_clip(clip: FootageClip, latents: int | None = None) -> EncodedClip:
    """The clip's fields for training, its first `latents` latents (None: all); InputError where it has fewer."""
    count = clip.latents.shape[1] if latents is None else latents
    if count > clip.latents.shape[1]:
        raise InputError("clip", clip.name, f"has {clip.latents.shape[1]} latents, not {count}", "ask for fewer, or leave it out")
    return EncodedClip(
        latents=clip.latents[:, :count], reference=clip.reference, weight=clip.weight, face_mask=clip.face_mask,
        rows=clip.rows[: 16 * count + 64].float() * STEP + FLOOR, speaking=clip.speaking[:count],
        listens=torch.tensor(clip.listens), portrait=clip.portrait)


def save_clip(clip: FootageClip, folder: Path, frames: np.ndarray, samples: np.ndarray) -> None:
    """Write a clip and its video (frames (T, H, W, 3) uint8, samples (n,) 16 kHz) whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{clip.name}.safetensors"
    with VideoWriter(path.with_suffix(".mp4"), frames.shape[2], frames.shape[1], clip.fps, Waveform(samples=samples), crf=CRF) as video:
        video.write(frames)
    info = {f.name: getattr(clip, f.name) for f in fields(clip) if f.name not in (*TENSORS, "video")} | {"fps": str(clip.fps)}
    save_tensors({path: {k: getattr(clip, k) for k in TENSORS}}, {METADATA: json.dumps(info, sort_keys=True)}, "out")


def load_clip(path: Path) -> FootageClip:
    """One clip; InputError for a file that is not one."""
    try:
        with safe_open(str(path), "pt") as f:
            info = json.loads((f.metadata() or {})[METADATA])
            tensors = {k: f.get_tensor(k) for k in TENSORS}
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError("clip", path, f"is no clip of `data prepare` ({error})", "delete it and prepare its source again") from error
    phones = None if info["phones"] is None else tuple(Phone(*p) for p in info["phones"])
    video = path.with_suffix(".mp4")
    return FootageClip(**tensors, **info | {"fps": Fraction(info["fps"]), "phones": phones}, video=video if video.is_file() else None)


def load_footage(folder: Path) -> list[FootageClip]:
    """All clips that `data prepare` kept under `folder`, by name; InputError where there are none."""
    paths = sorted((folder / FOLDER).glob("*.safetensors"))
    if not paths:
        raise InputError("footage", folder, "no clips there", "run `talking-machines data prepare FOLDER --out` with this folder")
    return [load_clip(path) for path in paths]
