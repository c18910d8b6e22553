"""One face through a piece of video: followed, measured, cropped.

The crop is one square for the whole clip, as a portrait's is (face/portrait_crop.py), so the head moves in it as in what the
model is to draw. Shapes: T frames, 468 landmarks in pixels of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
import numpy as np

from ...face.mesh import FaceMesh
from ...face.networks import Box, Face
from ...face.portrait_crop import crop_box, resample
from ...face.search import faces_of_frame
from ...face.topology import COUNT
from ...media.video_reader import to_rgb
from .thresholds import FootageConfig

LONGEST = 960  # pixels of the longer side in which the face is followed: the mesh sees 192 of them
BLOCK = 8  # frames held at a time
NOSE, CHEEKS = 1, (234, 454)
OUTSIDE = 0.02  # of the crop's side that landmarks may reach beyond it


@dataclass(frozen=True, kw_only=True)
class SampledFrame:
    """One frame a second, kept for counting faces and for text: small RGB (h, w, 3) and its frame in the piece."""

    frame: int
    rgb: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """Landmarks (T, 468, 3) in source pixels, NaN where no face was found, and what was seen on the way."""

    landmarks: np.ndarray
    picture_wh: tuple[int, int]
    extents: tuple[tuple[float, ...], ...]  # of all faces in each sampled frame
    sampled: tuple[SampledFrame, ...]
    frames: int  # of the piece; more than T where following was given up

    @property
    def found(self) -> float:
        """Share of the piece's frames with a face."""
        return float((~np.isnan(self.landmarks[:, 0, 0])).sum() / max(self.frames, 1))


def follow(frames: Iterable[av.VideoFrame], count: int, fps: float, mesh: FaceMesh, cfg: FootageConfig) -> FaceTrack:
    """The face in `count` frames; given up as soon as too many are without one."""
    parts: list[np.ndarray] = []
    sampled: list[SampledFrame] = []
    extents: list[tuple[float, ...]] = []
    size, scale, lost, every = (0, 0), 1.0, 0, max(1, round(fps))
    for block in _blocks(frames):
        rgb = np.stack([to_rgb(f, LONGEST) for f in block])
        size = _upright(block[0])
        scale = size[0] / rgb.shape[2]
        first = sum(map(len, parts))
        for i in (i for i in range(len(block)) if (first + i) % every == every // 2):
            sampled.append(SampledFrame(frame=first + i, rgb=rgb[i]))
            extents.append(tuple(f.extent * scale for f in faces_of_frame(mesh, rgb[i])))
        hint = parts[-1][-1] if parts else None
        parts.append(mesh.landmarks_batch(rgb, hint))
        lost += int(np.isnan(parts[-1][:, 0, 0]).sum())
        if lost > (1 - cfg.least_found) * count:
            break
    landmarks = np.concatenate(parts) if parts else np.zeros((0, COUNT, 3), np.float32)
    return FaceTrack(
        landmarks=enlarged(landmarks, scale), picture_wh=size, extents=tuple(extents), sampled=tuple(sampled), frames=count)


def enlarged(landmarks: np.ndarray, scale: float) -> np.ndarray:
    """Landmarks (..., 3) of a shrunk picture in source pixels; pixel (0, 0) has its centre at (0, 0)."""
    centre = np.array([0.5, 0.5, 0.0])
    return np.asarray((landmarks + centre) * scale - centre, np.float32)


def check_faces(track: FaceTrack, cfg: FootageConfig) -> tuple[str | None, dict[str, float]]:
    """Reason to drop, or None, and the measures."""
    measures = {"found": track.found}
    if track.found < cfg.least_found:
        return "no_face", measures
    points = bridged(track.landmarks)
    measures |= _measures(track, points, cfg)
    rules = (
        ("several_faces", measures["second"] > cfg.most_second),
        ("small_face", measures["extent_px"] < cfg.least_face_px),
        ("profile", measures["turn"] > cfg.most_turn),
        ("unsteady_face", measures["jump"] > cfg.most_jump or measures["zoom"] > cfg.most_zoom or measures["outside"] > cfg.most_outside),
    )
    return next((reason for reason, broken in rules if broken), None), measures


def _measures(track: FaceTrack, points: np.ndarray, cfg: FootageConfig) -> dict[str, float]:
    low, high = points[..., :2].min(1), points[..., :2].max(1)
    extent, centre = (high - low).max(1), (low + high) / 2
    second = [sum(e > cfg.second_face * max(all_) for e in all_) > 1 for all_ in track.extents if all_]
    steps = np.linalg.norm(np.diff(centre, axis=0), axis=1) / extent[1:]
    left, right = (np.linalg.norm(points[:, NOSE, :2] - points[:, c, :2], axis=1) for c in CHEEKS)
    box = clip_box(track)
    side = box[2] - box[0]
    over = np.maximum(np.array(box[:2]) - low, high - np.array(box[2:])).max(1) / side
    return {
        "second": float(np.mean(second)) if second else 0.0, "extent_px": float(np.median(extent)),
        "turn": float(np.median(np.abs(left - right) / (left + right))), "jump": float(steps.max(initial=0.0)),
        "zoom": float(np.percentile(extent, 95) / np.percentile(extent, 5)), "outside": float((over > OUTSIDE).mean()),
    }


def clip_box(track: FaceTrack) -> Box:
    """The square crop (x0, y0, x1, y1 in pixel edges) round the face's median place."""
    middle = np.nanmedian(track.landmarks, axis=0)
    return crop_box(Face(landmarks=middle, score=1.0), track.picture_wh)


def crop(frames: Iterable[av.VideoFrame], box: Box, size: int) -> np.ndarray:
    """(T, size, size, 3) uint8 of the box in each frame."""
    return np.stack([resample(to_rgb(f), box, size) for f in frames])


def bridged(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (T, 468, 3) with the lost frames on the line between their neighbours."""
    lost = np.isnan(landmarks[:, 0, 0])
    if not lost.any():
        return landmarks
    known = np.flatnonzero(~lost)
    at = np.clip(np.searchsorted(known, np.arange(len(landmarks))), 1, max(1, len(known) - 1))
    before, after = known[at - 1], known[np.minimum(at, len(known) - 1)]
    share = np.clip((np.arange(len(landmarks)) - before) / np.maximum(after - before, 1), 0, 1)[:, None, None]
    return np.asarray(np.where(lost[:, None, None], landmarks[before] * (1 - share) + landmarks[after] * share, landmarks), np.float32)


def _upright(frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height) of a frame as it is shown."""
    return (frame.height, frame.width) if round(frame.rotation / 90) % 2 else (frame.width, frame.height)


def _blocks(frames: Iterable[av.VideoFrame]) -> Iterator[list[av.VideoFrame]]:
    held: list[av.VideoFrame] = []
    for frame in frames:
        held.append(frame)
        if len(held) == BLOCK:
            yield held
            held = []
    if held:
        yield held
