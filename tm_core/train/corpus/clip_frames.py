"""Silent animations of moving mouths as face crops with landmarks: real lips, teeth and tongues to train a mouth on.

Writes clips/NAME.npz - frames (T, S, S, 3) uint8, landmarks (T, 468, 3) float32 in pixels of the crop, fps - and clips.json:
{file, identity, split, frames, side, fps, opening, licence}; `opening` is how far the lip gap (in face heights) changes between
its 5th and 95th percentile. The crop is one square for the whole clip, never enlarged. Non-goals: sound (there is none).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...face.mesh import FaceMesh
from ...face.networks import Face
from ...outputs import Staged, write_text
from .chosen import CLIPS, TemplateClip, stem_of
from .download import picture
from .stills import SIDE, WHEELS, lip_gap, local_pictures

log = logging.getLogger(__name__)

ROOM = 1.6  # side of the crop over the larger of the face's extent and what it moves across
SHORTEST = 8  # frames with a face
MOST_SHIFT, MOST_GROWTH = 0.25, 0.2  # of the face's extent, and of its logarithm, from one frame to the next: more is a cut
USUAL_MS = 62.5  # of a frame without a time: the wheels' animations have 16 a second


@dataclass(frozen=True, kw_only=True)
class MouthClipEntry:
    """A line of clips.json."""

    file: str
    identity: str
    split: str
    frames: int
    side: int
    fps: float
    opening: float
    licence: str = WHEELS


@dataclass(frozen=True, kw_only=True)
class MouthFrames:
    """Crops (T, S, S, 3) uint8 of one face, its landmarks (T, 468, 3) in their pixels, frames a second."""

    frames: np.ndarray
    landmarks: np.ndarray
    fps: float

    @property
    def opening(self) -> float:
        """How far the lips' gap, in face heights, changes from its 5th to its 95th percentile."""
        gaps = [lip_gap(Face(landmarks=p, score=1.0)) for p in self.landmarks]
        low, high = np.percentile(gaps, (5, 95))
        return float(high - low)


def mouth_frames(path: Path, mesh: FaceMesh, span: tuple[float, float] = (0.0, 1.0)) -> MouthFrames:
    """The longest shot of a span of an animation in which the largest face is followed; InputError for less than SHORTEST."""
    pictures, times = zip(*_animation(path, span), strict=True)
    whole = np.stack(pictures)
    landmarks = mesh.landmarks_batch(whole)
    first, last = _longest_shot(landmarks)
    if last - first < SHORTEST:
        raise InputError("clip", path.name, f"a face in {last - first} frames only", "choose another animation")
    frames, points = _cropped(whole[first:last], landmarks[first:last])
    return MouthFrames(frames=frames, landmarks=points, fps=1000 / float(np.mean(times[first:last])))


def make_clips(out: Path, cache: Path, clips: tuple[TemplateClip, ...] = CLIPS) -> list[MouthClipEntry]:
    """All clips into `out`; ones that are already there are kept, ones that fail are left out, and said."""
    out.mkdir(parents=True, exist_ok=True)
    mesh, local, entries = FaceMesh(), local_pictures(), []
    for clip in clips:
        target = out / f"{stem_of(clip.name)}.npz"
        if not target.is_file():
            try:
                made = mouth_frames(picture(clip.name, cache, local), mesh, clip.span)
            except InputError as e:
                log.warning("clips: left out: %s", e)
                continue
            with Staged(target, "clips") as part, part.open("wb") as file:
                np.savez_compressed(file, frames=made.frames, landmarks=made.landmarks, fps=made.fps)
        made = load_clip_frames(target)
        entries.append(MouthClipEntry(
            file=target.name, identity=clip.identity, split="held" if clip.held else "train", frames=len(made.frames),
            side=made.frames.shape[1], fps=round(made.fps, 3), opening=round(made.opening, 4)))
    write_text(out / "clips.json", json.dumps([asdict(e) for e in entries], indent=1), "clips")
    log.info("clips: %d, %d frames, %d held", len(entries), sum(e.frames for e in entries), sum(e.split == "held" for e in entries))
    return entries


def load_clip_frames(path: Path) -> MouthFrames:
    """A clip that `make_clips` wrote."""
    with np.load(path) as stored:
        return MouthFrames(frames=stored["frames"], landmarks=stored["landmarks"], fps=float(stored["fps"]))


def _animation(path: Path, span: tuple[float, float]) -> Iterator[tuple[np.ndarray, float]]:
    """Frames (H, W, 3) uint8 of a span of an animation and how long each is shown, in milliseconds."""
    with Image.open(path) as image:
        count = getattr(image, "n_frames", 1)
        first = min(int(span[0] * count), count - 1)
        for i in range(first, max(first + 1, int(span[1] * count))):
            image.seek(i)
            rgb = np.asarray(image.convert("RGB"))  # reading the frame sets its duration
            yield rgb, float(image.info.get("duration") or USUAL_MS)


def _longest_shot(landmarks: np.ndarray) -> tuple[int, int]:
    """First and last + 1 of the longest stretch of landmarks (T, 468, 3) without NaN, and without a jump as at a cut."""
    seen = ~np.isnan(landmarks[:, 0, 0])
    low, high = landmarks[..., :2].min(1), landmarks[..., :2].max(1)
    centre, extent = (low + high) / 2, (high - low).max(1)
    with np.errstate(invalid="ignore"):
        jumped = (np.abs(np.diff(centre, axis=0)).max(1) > MOST_SHIFT * extent[1:]) | (np.abs(np.diff(np.log(extent))) > MOST_GROWTH)
    best, first = (0, 0), 0
    for i in range(len(seen) + 1):
        if i == len(seen) or not seen[i] or (i and jumped[i - 1]):
            best = max(best, (first, i), key=lambda shot: shot[1] - shot[0])
            first = i if i < len(seen) and seen[i] else i + 1
    return best


def _cropped(frames: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One square round all places of the face, of at most SIDE pixels, and the landmarks in it."""
    low, high = landmarks[..., :2].min(1), landmarks[..., :2].max(1)  # (T, 2) each
    extent = float((high - low).max())
    across = float((high.max(0) - low.min(0)).max())
    half = min(max(ROOM * extent, 1.1 * across), *frames.shape[1:3]) / 2
    centre = (low.min(0) + high.max(0)) / 2
    x, y = np.clip(centre, half, np.array(frames.shape[2:0:-1]) - half)
    side = min(SIDE, round(2 * half))
    box = (x - half, y - half, x + half, y + half)
    crops = [np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.LANCZOS, box=box)) for f in frames]
    points = landmarks.astype(np.float32).copy()
    points[..., :2] -= np.array([x - half, y - half], np.float32)
    return np.stack(crops), points * np.float32(side / (2 * half))
