"""`talking-machines score`: lip sync, drift and quality of any video, whatever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..app import face_mesh
from ..errors import InputError
from ..media.audio_io import read_audio
from ..media.video_io import probe, read_frames
from ..metrics.score import score_video


def score_file(video: Path, audio: Path | None) -> dict[str, Any]:
    """All measures of a video; `audio` None: the video's own sound. InputError for what is no video of a face."""
    fps, frames = read_frames(video)
    samples = _samples(video, audio)
    return {"video": str(video), **score_video(frames, float(fps), samples, mesh=face_mesh())}


def _samples(video: Path, audio: Path | None) -> np.ndarray | None:
    """16 kHz sound to compare with, None for a video without a sound track."""
    if audio is not None:
        return read_audio(audio).samples
    if probe(video).audio_s is None:
        return None
    try:
        return read_audio(video).samples
    except InputError as error:
        raise InputError("video", video, f"its sound {error.rule}", "give the sound with --audio") from error
