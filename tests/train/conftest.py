"""Inputs for training tests: one portrait and one recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core.config import DiTConfig, ModelConfig, VAEConfig, tiny
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media import open_image, read_audio
from tm_core.train.dataset import PAD, TEXTURE, Inputs, SpeechDataset, _padded, mouth_shapes, normalised
from tm_core.train.people import PackedFaces
from tm_core.train.visemes import mouth_weights
from tm_core.vae.tiny import TinyVAE

SMALL: ModelConfig = replace(
    tiny(), width=64, height=64, vae=VAEConfig(width=16),
    dit=DiTConfig(dim=48, ffn_dim=64, num_heads=1, num_layers=1, text_dim=8, text_len=1, image_dim=None, audio_dim=192,
                  prediction="residual"))
ASSETS = Path(__file__).parents[2] / "tm_core" / "assets"


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    """The embedded default's layout at a size that trains in seconds."""
    return SMALL


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    from tm_core.audio.features import SILENCE, log_mel
    from tm_core.train.dataset import FLOOR, STEP

    portrait = crop_portrait(open_image(ASSETS / "portraits" / "demo.jpg"), TEXTURE, FaceMesh())
    faces = PackedFaces(images=torch.from_numpy(portrait.image.copy()).permute(2, 0, 1)[None].float() / 255,
                  points=torch.from_numpy(normalised(portrait.landmarks, TEXTURE))[None], shapes=torch.from_numpy(mouth_shapes()))
    sound = read_audio(next((ASSETS / "speech").glob("*.wav"))).samples
    frames = len(sound) // 640
    rows = _padded(log_mel(sound, SMALL.audio)[: frames * 4], 4 * PAD, SILENCE)
    weights = _padded(mouth_weights([("AA", t, t + 0.1) for t in np.arange(0.2, 6.5, 0.3)], sound, frames, 25), PAD, 0)
    speech = SpeechDataset(
        rows=torch.from_numpy(np.clip(np.round((rows - FLOOR) / STEP), 0, 255).astype(np.uint8)),
        weights=torch.from_numpy(weights).half(), labels=torch.zeros(len(weights), dtype=torch.uint8),
        starts=torch.tensor([0, len(weights)]), voices=("librivox",), trusted=torch.ones(1, dtype=torch.bool))
    return Inputs(faces=faces, speech=speech, identities=("demo",))


@pytest.fixture(scope="session")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    assert SMALL.vae
    net = TinyVAE(SMALL.vae).eval()
    net.scale.fill_(200.0)  # an untrained latent hardly moves
    return net
