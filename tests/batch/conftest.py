"""An untrained model, a portrait and short sounds: what a batch needs, small."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core.config import tiny
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import TalkingModel, save_model

RATE = 16000


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the bundled one's shape; layers that start at zero get some noise, so that seeds matter."""
    torch.manual_seed(0)
    cfg = tiny()
    assert cfg.projector is not None and cfg.vae is not None
    dit = TalkingDiT(cfg.dit)
    for weight in dit.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight.data, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_model(TalkingModel(config=cfg, dit=dit, projector=AudioProjector(cfg.projector), vae=TinyVAE(cfg.vae)), path)
    return path


@pytest.fixture(scope="session")
def portrait(assets: Path) -> Path:
    return assets / "portraits" / "demo.jpg"


@pytest.fixture(scope="session")
def make_wav() -> Callable[[Path, float], Path]:
    """Writes a tone of so many seconds."""

    def make(path: Path, seconds: float) -> Path:
        tone = 0.3 * np.sin(2 * np.pi * 180 * np.arange(round(seconds * RATE)) / RATE)
        with wave.open(str(path), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes((tone * 32767).astype("<i2").tobytes())
        return path

    return make


@pytest.fixture
def files(tmp_path: Path, portrait: Path, make_wav: Callable[[Path, float], Path]) -> Path:
    """A folder with face.jpg and voice.wav (0.2 s)."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "face.jpg").write_bytes(portrait.read_bytes())
    make_wav(folder / "voice.wav", 0.2)
    return folder
