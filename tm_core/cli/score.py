"""`talking-machines score`: lip sync, drift and quality of any video, whatever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError


def score_file(video: Path, audio: Path | None) -> dict[str, Any]:
    """All measures of a video; `audio` None: the video's own sound."""
    raise InputError("video", video, "cannot be measured yet", "wait")
