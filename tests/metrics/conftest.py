"""A talking clip made by code: the bundled portrait, the bundled voice, the training data's generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media import read_audio
from tm_core.metrics.phones import Phone, recognise_phones

FPS = 25.0


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames (T, 128, 128, 3) uint8, the voice at 16 kHz with a second of silence at its end, its phones."""

    frames: np.ndarray
    samples: np.ndarray
    phones: list[Phone]
    rest_gap: float


@pytest.fixture(scope="session")
def mesh() -> FaceMesh:
    """Both networks, loaded once."""
    return FaceMesh()


@pytest.fixture(scope="session")
def voice(assets: Path) -> np.ndarray:
    """Seven seconds of LibriVox, then one of silence."""
    samples = read_audio(next((assets / "speech").glob("librivox_*.wav"))).samples
    return np.concatenate([samples, np.zeros(16000, np.float32)])


@pytest.fixture(scope="session")
def phones(voice: np.ndarray) -> list[Phone]:
    """What pocketsphinx hears in it."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx (extra score) says which sounds the voice makes")
    return recognise_phones(voice)


@pytest.fixture(scope="session")
def clip(assets: Path, mesh: FaceMesh, voice: np.ndarray, phones: list[Phone]) -> Clip:
    """The portrait says it, with blinks and a little head motion."""
    from tm_core.metrics.lip_sync import lip_gap
    from tm_core.train.dataset import mouth_shapes, normalised
    from tm_core.train.generator import draw
    from tm_core.train.still_heads import fit_head
    from tm_core.train.visemes import blinks, head_pose, mouth_weights

    portrait = crop_portrait(np.asarray(Image.open(assets / "portraits" / "demo.jpg").convert("RGB")), 256, mesh)
    texture = torch.from_numpy(portrait.image.copy()).permute(2, 0, 1).float() / 255
    head = fit_head(texture, torch.from_numpy(normalised(portrait.landmarks, 256)), torch.from_numpy(mouth_shapes()))
    frames, rng = round(len(voice) / 16000 * FPS), np.random.default_rng(0)
    weights = np.hstack([
        mouth_weights([tuple(p) for p in phones], voice, frames, FPS), blinks(frames, FPS, rng)[:, None],
        head_pose(frames, FPS, rng, 0.5), np.zeros((frames, 1), np.float32)])
    drawn = []
    with torch.inference_mode():
        for part in torch.from_numpy(weights.astype(np.float32)).split(16):
            heads = head[torch.zeros(len(part), dtype=torch.long)]
            drawn.append((draw(heads, part, 128).frames * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return Clip(
        frames=np.concatenate(drawn), samples=voice, phones=phones, rest_gap=float(lip_gap(portrait.landmarks[None])[0]))
