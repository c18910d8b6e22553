"""How much of a picture the video shows and how large: the picture itself, or a crop round the face.

Non-goals: finding faces (face), drawing them (vae.rendering). Shapes: H x W picture, n side of a map over a face's crop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..compose.canvas import Box, apart
from ..face.portrait_crop import resample
from ..inputs import VideoFraming
from ..media.video_io import playable_size
from ..vae.rendering import FaceView
from .portrait import Portrait

log = logging.getLogger(__name__)

PICTURE_SIDE, FACE_SIDE = 1024, 512  # pixels of the video's longer side where none is asked for
GRID = 64  # side of the map that says how much of the motion counts
INNER, OUTER = 0.12, 0.05  # of the crop's side: how far the motion fades at the crop's edge, and at the picture's


def view_of(portrait: Portrait) -> FaceView:
    """A portrait on its picture, at the picture's own size."""
    box, crop = portrait.crop.box, portrait.crop
    scale = (box[2] - box[0]) / crop.image.shape[1]
    landmarks = crop.landmarks * np.float32(scale)
    landmarks[:, :2] += np.array(box[:2], np.float32) + (scale - 1) / 2
    return FaceView(picture=portrait.picture, box=box, landmarks=landmarks, share=_share(box, portrait.picture), light=portrait.light)


def framed(view: FaceView, framing: VideoFraming, size: int | None) -> FaceView:
    """What the video shows of it: see options.AnimateOptions."""
    if framing == "picture":
        return shrunk([view], size)[0]
    height, width = view.picture.shape[:2]
    x0, y0, x1, y1 = view.box
    seen = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))  # the picture ends where it ends
    across, down = seen[2] - seen[0], seen[3] - seen[1]
    scale = (size or FACE_SIDE) / max(across, down)
    extent = max(1, round(across * scale)), max(1, round(down * scale))
    return _moved(view, resample(view.picture, seen, extent), seen, extent)


def shrunk(views: Sequence[FaceView], size: int | None) -> list[FaceView]:
    """Faces of one picture, on one whose longer side is `size` at most, and that players take."""
    picture = views[0].picture
    height, width = picture.shape[:2]
    scale = min(1.0, (size or PICTURE_SIDE) / max(width, height))
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    extent = playable_size(*wanted)
    if extent != wanted:
        log.warning("the picture of %d x %d pixels becomes a video of %d x %d: players take no larger ones", width, height, *extent)
    if extent == (width, height):
        return list(views)
    whole = 0.0, 0.0, float(width), float(height)
    small = resample(picture, whole, extent)
    return [_moved(view, small, whole, extent) for view in views]


def side_by_side(views: Sequence[FaceView]) -> list[tuple[FaceView, Box, np.ndarray | None]]:
    """Faces of one picture, each on its own part of it, where that lies, and which of its pixels (h, w) are its own (None: all).

    Where crops overlap each face moves what is nearer to it, and stands still at the border.
    """
    if len(views) == 1:
        return [_part(views[0], None)]
    shares = apart([v.box for v in views], [v.share for v in views])
    parts = [_part(view, np.clip(2 * share - view.share, 0, None)) for view, share in zip(views, shares, strict=True)]
    taken = np.zeros(views[0].picture.shape[:2], bool)  # cells of two faces may share a pixel at the border
    for _, (x0, y0, x1, y1), own in parts:
        assert own is not None
        here = taken[int(y0) : int(y1), int(x0) : int(x1)]
        own &= ~here
        here |= own
    return parts


def _part(view: FaceView, share: np.ndarray | None) -> tuple[FaceView, Box, np.ndarray | None]:
    height, width = view.picture.shape[:2]
    x0, y0, x1, y1 = (int(np.floor(v)) for v in view.box)
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1 + 1), min(height, y1 + 1)
    box = view.box[0] - left, view.box[1] - top, view.box[2] - left, view.box[3] - top
    part = replace(
        view, picture=view.picture[top:bottom, left:right], box=box,
        landmarks=view.landmarks - np.array([left, top, 0], np.float32), share=view.share if share is None else share)
    place = float(left), float(top), float(right), float(bottom)
    return part, place, None if share is None else _own(share, part)


def _own(share: np.ndarray, view: FaceView) -> np.ndarray:
    """Which pixels (h, w) of a view's picture lie in cells in which something moves."""
    (x0, y0, x1, y1), (height, width) = view.box, view.picture.shape[:2]
    columns, rows = (
        np.clip(((np.arange(count) + 0.5 - low) / (high - low) * len(share)).astype(int), 0, len(share) - 1)
        for count, low, high in ((width, x0, x1), (height, y0, y1)))
    return np.asarray(share[rows[:, None], columns[None]] > 0)


def _moved(view: FaceView, picture: np.ndarray, seen: Box, extent: tuple[int, int]) -> FaceView:
    """The face on `picture`, which is what lies in the box `seen` of the old one, in `extent` pixels."""
    kx, ky = extent[0] / (seen[2] - seen[0]), extent[1] / (seen[3] - seen[1])
    x0, y0, x1, y1 = view.box
    box = (x0 - seen[0]) * kx, (y0 - seen[1]) * ky, (x1 - seen[0]) * kx, (y1 - seen[1]) * ky
    scale = np.array([kx, ky, (kx + ky) / 2])
    landmarks = (view.landmarks + 0.5 - np.array([*seen[:2], 0.5])) * scale - np.array([0.5, 0.5, 0.0])
    return replace(view, picture=picture, box=box, landmarks=landmarks.astype(np.float32), share=_share(box, picture))


def _share(box: Box, picture: np.ndarray) -> np.ndarray:
    """(GRID, GRID) over a crop: 1 inside, 0 at its edges and the picture's, so that nothing is torn from beyond them."""
    height, width = picture.shape[:2]
    ramps = []
    for low, high, end in ((box[0], box[2], float(width)), (box[1], box[3], float(height))):
        side, at = high - low, low + (np.arange(GRID) + 0.5) / GRID * (high - low)
        first = (at - max(low, 0.0)) / (side * (INNER if low > 0 else OUTER))
        last = (min(high, end) - at) / (side * (INNER if high < end else OUTER))
        cell = side / GRID  # the outermost cells reach the edge: they stand still
        edge = np.minimum(at - max(low, 0.0), min(high, end) - at) > 1.5 * cell
        ramps.append(np.clip(np.minimum(first, last), 0, 1) * edge)
    near = 1 - np.minimum(1, np.hypot(1 - ramps[1][:, None], 1 - ramps[0][None]))
    return np.asarray((0.5 - 0.5 * np.cos(np.pi * near)) * (ramps[1] > 0)[:, None] * (ramps[0] > 0), np.float32)
