"""The score of one talking video in every wrapping: containers, rotation, uneven stamps, tracks that begin apart, silent tracks.

The bundled clip is written anew each way and scored as `talking-machines score` does. What it is compared with is the same clip as
plain mp4; of an uneven one, the mp4 that repeats the frames which stay on. `--seconds` shortens the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks._common import Result, result, say
from parity.containers import Wrapping, wrap
from tm_core.cli.score_files import score_file
from tm_core.media import VideoReader, read_audio

CLIP = Path(__file__).parents[1] / "tm_core" / "assets" / "clips" / "talking.mp4"
SECONDS, FPS = 6.0, 25
MOST_OFF, MOST_LAG = 0.02, 1  # share of the reference's Sync-C; frames
WRAPPINGS = (
    Wrapping(container="mov"), Wrapping(container="mkv"), Wrapping(container="webm"), Wrapping(container="ts"), Wrapping(container="avi"),
    Wrapping(container="mp4", turn=90), Wrapping(container="mov", turn=180), Wrapping(container="mp4", uneven=True),
    Wrapping(container="mkv", uneven=True), Wrapping(container="mp4", sound_start_s=0.32), Wrapping(container="mkv", sound_start_s=-0.2),
    Wrapping(container="mkv", silent_tracks=1))


@dataclass(frozen=True)
class Score:
    """Of the one face of a video."""

    sync_c: float
    lag: int


def run(*, seconds: float | None = None) -> list[Result]:
    """A row for each wrapping and the worst of them."""
    frames, samples = _clip(seconds or SECONDS)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        plain = _score(wrap(place / "plain.mp4", frames, samples, Wrapping(container="mp4")))
        held = _held(frames, Wrapping(container="mp4", uneven=True))
        uneven = _score(wrap(place / "held.mp4", held, samples, Wrapping(container="mp4")))
        rows = [_row(how, uneven if how.uneven else plain, place, frames, samples) for how in WRAPPINGS]
    off, lag = (max(float(row[key]) for row in rows) for key in ("off", "lag_off"))
    shown = [result(what=f"{row['how']}: Sync-C over the plain mp4's", value=round(row["ratio"], 4), unit="ratio") for row in rows]
    return [
        *shown,
        result(what="worst difference of Sync-C", value=round(off, 4), unit="share", bar=f"<= {MOST_OFF}", ok=off <= MOST_OFF),
        result(what="worst lag", value=lag, unit="frames", bar=f"<= {MOST_LAG}", ok=lag <= MOST_LAG)]


def _row(how: Wrapping, reference: Score, place: Path, frames: np.ndarray, samples: np.ndarray) -> dict[str, Any]:
    path = wrap(place / f"x.{how.container}", frames, samples, how)
    found = _score(path)
    path.unlink()
    expected = reference.lag - round(how.sound_start_s * FPS)
    say(f"{how}: Sync-C {found.sync_c:.3f} of {reference.sync_c:.3f}, lag {found.lag}, expected {expected}")
    ratio = found.sync_c / reference.sync_c
    # where the sound begins at another time, other seconds of it are judged: only its lag is compared
    return {"how": str(how), "ratio": ratio, "off": 0.0 if how.sound_start_s else abs(ratio - 1), "lag_off": abs(found.lag - expected)}


def _clip(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    with VideoReader(CLIP) as reader:
        frames = np.stack(list(reader.pictures())[: round(seconds * FPS)])
        return frames, read_audio(CLIP, origin=reader.start_s).samples[: round(seconds * 16000)]


def _held(frames: np.ndarray, how: Wrapping) -> np.ndarray:
    kept = how.kept(len(frames))
    return np.asarray(frames[[max(k for k in kept if k <= i) for i in range(len(frames))]])


def _score(path: Path) -> Score:
    face = score_file(path)["faces"][0]
    return Score(sync_c=float(face["sync_c"]), lag=int(face["offset_frames"]))
