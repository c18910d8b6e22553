"""Videos made by the writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tm_core.media import VideoWriter, Waveform


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes a video of frames and samples (None: no sound track)."""

    def to_file(path: Path, frames: np.ndarray, samples: np.ndarray | None, fps: int = 25) -> Path:
        sound = None if samples is None else Waveform(samples=np.ascontiguousarray(samples, np.float32))
        with VideoWriter(path, frames.shape[2], frames.shape[1], fps, sound) as video:
            video.write(frames)
        return path

    return to_file
