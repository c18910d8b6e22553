"""What both frameworks are given to show. `make frameworks` makes their environment and runs these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tm_core import talk
from tm_core.live.avatar import AvatarOptions, LiveAvatar
from tm_core.media.audio_io import read_audio
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.weights.loading import load_model

RATE = 16000


@pytest.fixture(scope="session")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="session")
def portrait(model: TalkingModel, assets: Path) -> talk.Portrait:
    return talk.prepare_portrait(open_image(assets / "portraits" / "demo.jpg"), model.config)


@pytest.fixture(scope="session")
def speech(assets: Path) -> np.ndarray:
    """(n,) int16 at 16000 a second, eight seconds."""
    samples = read_audio(next((assets / "speech").glob("*.wav"))).samples[: RATE * 8]
    return (samples * 32767).astype(np.int16)


@pytest.fixture
def avatar(model: TalkingModel, portrait: talk.Portrait) -> Iterator[LiveAvatar]:
    """Not started: that is the adapter's. Small pictures, so that two cores have time to spare."""
    session = LiveAvatar(model, portrait, AvatarOptions(size=160))
    yield session
    session.close()
