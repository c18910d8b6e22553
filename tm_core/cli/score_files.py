"""`talking-machines score`: lip sync of every face, drift and quality of any video, whatever made it; or of a whole folder."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..media.audio_io import read_audio
from ..media.video_reader import VideoReader
from ..metrics.video_score import JUDGED_S, score_video
from ..outputs import Staged, check_apart
from ..talk.portrait import face_mesh
from .argument_checks import check_seconds, videos_of

log = logging.getLogger(__name__)

OF_VIDEO = ("width", "height", "fps", "video_s", "face_found")
OF_FACE = (
    "face", "speaks", "sync_c", "sync_d", "offset_frames", "lip_r", "confidence", "speaking_s", "judged_s", "first_s", "last_s", "frames")
COLUMNS = ("video", "faces", *OF_FACE, "box", *OF_VIDEO, "error")


def score_file(video: Path, audio: Sequence[Path] = (), seconds: float | None = None) -> dict[str, Any]:
    """All measures of a video; no `audio`: the video's own sound. InputError for what is no video of a face."""
    limit = JUDGED_S if seconds is None else check_seconds(seconds)
    named = {"audio": [str(a) for a in audio]} if audio else {}
    with VideoReader(video) as reader:
        samples = _samples(reader, audio)
        measured = score_video(reader.pictures(), float(reader.fps), samples, mesh=face_mesh(), seconds=limit)
    return {"video": str(video), **named, **measured}


def _samples(video: VideoReader, audio: Sequence[Path]) -> list[np.ndarray]:
    """16 kHz sounds to compare with: the given ones as they are, the video's own on the clock of its pictures, if it has one."""
    if audio:
        return [read_audio(path).samples for path in audio]
    return [read_audio(video.path, origin=video.start_s, field="video").samples] if video.has_sound else []


def score_folder(folder: Path, out: Path, seconds: float | None = None) -> dict[str, Any]:
    """A row of `out` for every face of every video below a folder (or of one video); a video that fails is one row that says why."""
    videos = videos_of(folder)
    check_apart([("video", video) for video in videos], [("--csv", out)])
    if seconds is not None:
        check_seconds(seconds)
    failed = 0
    with Staged(out, "--csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, video in enumerate(videos, 1):
            rows = _rows(video, folder, seconds)
            failed += bool(rows[0]["error"])
            writer.writerows(rows)
            sys.stderr.write(f"{number} of {len(videos)} {rows[0]['video']}: {rows[0]['error'] or said(rows)}\n")
    return {"folder": str(folder), "videos": len(videos), "failed": failed, "csv": str(out)}


def said(rows: Sequence[dict[str, Any]]) -> str:
    """A video in a few words."""
    best = max(rows, key=lambda row: -1.0 if row["confidence"] is None else row["confidence"])
    if best["sync_c"] is None:
        return f"{len(rows)} faces, no sync"
    return f"{len(rows)} faces, {best['face']} best: Sync-C {best['sync_c']}, offset {best['offset_frames']}"


def _rows(video: Path, folder: Path, seconds: float | None) -> list[dict[str, Any]]:
    """The rows of one video; whatever goes wrong with it ends here, so that the others are scored."""
    name = str(video.relative_to(folder)) if video != folder else str(video)
    try:
        report = score_file(video, seconds=seconds)
    except InputError as error:
        return [{"video": name, "error": str(error)}]
    except Exception as error:
        log.exception("%s", video)
        return [{"video": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}]
    return [_row(name, face, report) for face in report["faces"]]


def _row(name: str, face: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    box = " ".join(f"{v:.0f}" for v in face["box"])
    values = {k: face[k] for k in OF_FACE} | {k: report[k] for k in OF_VIDEO}
    short = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    return {"video": name, "faces": len(report["faces"]), **short, "box": box, "error": None}
