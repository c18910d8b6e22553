"""Masks of many faces: lips, face or head of each, grown, feathered, none of them on another's face.

A face may come from our finder, or as landmarks, a box or a mask from anywhere. Every mask begins as a signed
distance to its region's edge: growing shifts it, feathering is a ramp across it, and where regions meet the face
that is nearest, counted in its own sizes, has the pixel. Non-goals: finding faces (search), one model's crop (mask).
Paper section 3: the masks route each voice. Legend: N faces, H height, W width, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputError
from .crops import Squares
from .mask import JAW_DROP, LIPS_WIDER, WIDER
from .networks import Box, Face, squares_of
from .segment import PersonSegmenter
from .topology import CHIN, COUNT, FOREHEAD, OUTER_LIPS, OVAL

REGIONS = ("lips", "face", "head")
MESHES = (COUNT, 478)  # points of the face mesh, without and with irises
DLIB, DLIB_LIPS = 68, slice(48, 60)  # the other common set of landmarks
HEAD_VIEW = 3.2  # side of the segmentation's crop over the face's
HEAD_UP, HEAD_DOWN, HEAD_SIDE = 1.15, 0.62, 0.95  # reach of a head from the face's centre, of the face's height
PERSON = 0.5
FACE_IN_BOX = 0.5  # half axes of a face's ellipse over a box's sides
LIPS_IN_BOX = (0.78, 0.28, 0.12)  # middle of the lips from the top, half width and half height, of a box's sides
Source = Face | np.ndarray | Box


@dataclass(frozen=True, kw_only=True)
class MaskChoices:
    """Region of each face; `grow` and `feather` in pixels: a negative grow shrinks, the feather's ramp lies across the edge."""

    region: str = "face"
    feather: float = 8.0
    grow: float = 0.0
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise InputError("region", self.region, "is no part of a face known here", f"choose one of {', '.join(REGIONS)}")
        if not (math.isfinite(self.feather) and self.feather >= 0):
            raise InputError("feather", self.feather, "a soft edge has a width of 0 pixels or more", "set it to 0 for a hard edge")
        if not math.isfinite(self.grow):
            raise InputError("grow", self.grow, "pixels are a finite number", "set it to 0 for the region as it is")


@dataclass(frozen=True, kw_only=True)
class _Area:
    """One region: pixels (H, W) bool, a soft mask where one was given, the face's centre and size in pixels."""

    inside: np.ndarray
    centre: np.ndarray
    extent: float
    soft: np.ndarray | None = None


def face_masks(
    sources: Sequence[Source], size: tuple[int, int], choices: MaskChoices, *, rgb: np.ndarray | None = None,
    segmenter: PersonSegmenter | None = None,
) -> np.ndarray:
    """(N, H, W) float32 0..1, in the order of `sources`: faces, landmarks (P, 2 or 3), boxes (x0, y0, x1, y1) or masks (H, W).

    size: (width, height). A head needs the picture `rgb` (H, W, 3) uint8, except of a mask, which is taken as it is.
    """
    areas = [_area(source, i, size, choices, rgb, segmenter) for i, source in enumerate(sources)]
    if not areas:
        return np.zeros((0, size[1], size[0]), np.float32)
    masks = np.stack([_edged(area, choices) for area in areas])
    return _apart(masks, areas) if choices.exclusive and len(areas) > 1 else masks


def _area(
    source: Source, index: int, size: tuple[int, int], choices: MaskChoices, rgb: np.ndarray | None, segmenter: PersonSegmenter | None,
) -> _Area:
    if isinstance(source, Face):
        return _of_landmarks(source.landmarks, index, size, choices.region, rgb, segmenter)
    if isinstance(source, tuple):
        return _of_box(source, index, size, choices.region, rgb, segmenter)
    if source.ndim == 2 and source.shape[1] in (2, 3) and source.shape != size[::-1]:
        return _of_landmarks(source, index, size, choices.region, rgb, segmenter)
    return _of_mask(source, index, size)


def _of_mask(mask: np.ndarray, index: int, size: tuple[int, int]) -> _Area:
    if mask.ndim != 2:
        raise InputError(f"mask {index}", mask.shape, "a mask has a height and a width", "give one plane for each face")
    soft = np.nan_to_num(np.clip(mask, 0, 1)).astype(np.float32)
    if mask.shape != size[::-1]:
        soft = np.clip(np.asarray(Image.fromarray(soft).resize(size, Image.Resampling.BILINEAR)), 0, 1)
    inside = soft >= 0.5
    if not inside.any():
        raise InputError(f"mask {index}", f"at most {float(soft.max()):.2f}", "the mask is empty", "paint the face white, or leave it out")
    y, x = np.nonzero(inside)
    return _Area(inside=inside, soft=soft, centre=np.array([x.mean(), y.mean()]), extent=float(max(np.ptp(x), np.ptp(y)) + 1))


def _of_box(
    box: Box, index: int, size: tuple[int, int], region: str, rgb: np.ndarray | None, segmenter: PersonSegmenter | None,
) -> _Area:
    x0, y0, x1, y1 = box
    if not (all(map(math.isfinite, box)) and x1 > x0 and y1 > y0):
        raise InputError(f"box {index}", box, "a box is left, top, right, bottom, in this order", "give x0 < x1 and y0 < y1 in pixels")
    wide, high, centre = x1 - x0, y1 - y0, np.array([x0 + x1, y0 + y1]) / 2
    down, half_wide, half_high = LIPS_IN_BOX if region == "lips" else (0.5, FACE_IN_BOX, FACE_IN_BOX)
    inside = _filled(_ellipse(np.array([centre[0], y0 + down * high]), half_wide * wide, half_high * high), size)
    if region == "head":
        frame = Squares(centre=centre[None], side=np.array([high]), angle=np.zeros(1))
        inside = _head(inside, frame, size, index, rgb, segmenter)
    return _Area(inside=_seen(inside, f"box {index}", size), centre=centre, extent=max(wide, high))


def _of_landmarks(
    points: np.ndarray, index: int, size: tuple[int, int], region: str, rgb: np.ndarray | None, segmenter: PersonSegmenter | None,
) -> _Area:
    if len(points) < 3 or not np.isfinite(points[:, :2]).all():
        raise InputError(f"landmarks {index}", points.shape, "a face has at least three finite points", "give (points, 2) in pixels")
    flat = points[:, :2].astype(np.float64)
    low, high = flat.min(0), flat.max(0)
    inside = _filled(_lips(flat, index) if region == "lips" else _outline(flat), size)
    if region == "head":
        inside = _head(inside, _frame(points), size, index, rgb, segmenter)
    return _Area(inside=_seen(inside, f"landmarks {index}", size), centre=(low + high) / 2, extent=float((high - low).max()))


def _outline(points: np.ndarray) -> np.ndarray:
    """(P, 2): where the face ends, an opening jaw included; the hull of landmarks that are not the mesh's."""
    if len(points) not in MESHES:
        from scipy.spatial import ConvexHull, QhullError  # dear to import, as the two below

        try:
            return np.asarray(points[ConvexHull(points).vertices])
        except QhullError as error:
            raise InputError("landmarks", f"{len(points)} points", "they lie on a line", "give the points of a face") from error
    oval, centre = points[list(OVAL)], points[list(OVAL)].mean(0)
    return np.asarray(centre + (oval - centre) * WIDER + _below(oval, centre, points))


def _lips(points: np.ndarray, index: int) -> np.ndarray:
    if len(points) == DLIB:
        lips, down = points[DLIB_LIPS], (points[8] - points[27]) * JAW_DROP
    elif len(points) in MESHES:
        lips = points[list(OUTER_LIPS)]
        down = (points[CHIN] - points[FOREHEAD]) * JAW_DROP
    else:
        raise InputError(
            f"landmarks {index}", f"{len(points)} points", f"lips are known for {DLIB}, {MESHES[0]} and {MESHES[1]} points",
            "choose the region face, or connect landmarks of the face mesh")
    centre = lips.mean(0)
    return np.asarray(centre + (lips - centre) * LIPS_WIDER + ((lips - centre) @ down > 0)[:, None] * down)


def _below(outline: np.ndarray, centre: np.ndarray, points: np.ndarray) -> np.ndarray:
    down = (points[CHIN] - points[FOREHEAD]) * JAW_DROP
    return np.asarray(((outline - centre) @ down > 0)[:, None] * down)


def _frame(points: np.ndarray) -> Squares:
    """The face's own square: turned with the eyes where they are known, its side the face's longer side."""
    if len(points) in MESHES:
        square = squares_of(points[None, :COUNT])
        return Squares(centre=square.centre, side=square.side / 1.5, angle=square.angle)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return Squares(centre=((low + high) / 2)[None].astype(np.float64), side=np.array([float((high - low).max())]), angle=np.zeros(1))


def _head(
    face: np.ndarray, frame: Squares, size: tuple[int, int], index: int, rgb: np.ndarray | None, segmenter: PersonSegmenter | None,
) -> np.ndarray:
    """The face and what of the person is connected with it in a head's reach."""
    if rgb is None:
        raise InputError(f"face {index}", "no picture", "a head is found in the picture", "connect the picture, or choose the region face")
    from scipy.ndimage import binary_propagation

    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float64)
    near = _reach(grid, frame)
    view = Squares(centre=frame.centre - 0.3 * frame.side * frame.axes()[0, 1], side=frame.side * HEAD_VIEW, angle=frame.angle)
    person = np.zeros(near.shape, bool)
    person[near] = (segmenter or person_segmenter()).in_square(rgb, view, grid[near]) >= PERSON
    return np.asarray(face | binary_propagation(face, mask=(person & near) | face))


def _reach(grid: np.ndarray, frame: Squares) -> np.ndarray:
    """(H, W) bool: an egg round the face, higher above its middle than below, in the face's own frame."""
    own = (grid - frame.centre[0]) @ frame.axes()[0].T / frame.side[0]
    vertical = np.where(own[..., 1] < 0, HEAD_UP, HEAD_DOWN)
    return np.asarray((own[..., 0] / HEAD_SIDE) ** 2 + (own[..., 1] / vertical) ** 2 < 1)


def _ellipse(centre: np.ndarray, across: float, down: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 73)[:-1]
    return np.asarray(centre + np.stack([np.cos(angle) * across, np.sin(angle) * down], -1))


def _filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", size)
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    return np.array(canvas, bool)


def _seen(inside: np.ndarray, field: str, size: tuple[int, int]) -> np.ndarray:
    if not inside.any():
        raise InputError(field, "outside", f"none of it is in the picture of {size[0]}x{size[1]} pixels", "give pixels of this picture")
    return inside


def _edged(area: _Area, choices: MaskChoices) -> np.ndarray:
    """(H, W) float32: the region grown and feathered; a soft mask that shall stay as it is stays to the bit."""
    if not choices.grow and not choices.feather:
        return area.inside.astype(np.float32) if area.soft is None else area.soft
    from scipy.ndimage import distance_transform_edt

    reach = int(np.ceil(abs(choices.grow) + choices.feather)) + 2
    rows, columns = (_span(np.asarray(area.inside.any(axis)), reach) for axis in (1, 0))
    out = np.zeros(area.inside.shape, np.float32)
    # a margin of one pixel keeps the distance to an edge that lies outside the picture from counting
    part = area.inside[rows, columns]
    distance = distance_transform_edt(part) - distance_transform_edt(~part) if not part.all() else np.full(part.shape, np.inf)
    shifted = distance - np.sign(distance) * 0.5 + choices.grow
    out[rows, columns] = np.clip(0.5 + shifted / choices.feather, 0, 1) if choices.feather else shifted > 0
    return out


def _span(used: np.ndarray, reach: int) -> slice:
    at = np.flatnonzero(used)
    return slice(max(0, int(at[0]) - reach), int(at[-1]) + 1 + reach)


def _apart(masks: np.ndarray, areas: list[_Area]) -> np.ndarray:
    """Where masks meet, the nearest face, in its own sizes, has the pixel; the first one of equals."""
    shared = (masks > 0).sum(0) > 1
    if not shared.any():
        return masks
    y, x = np.nonzero(shared)
    at = np.stack([x, y], -1)
    away = np.stack([np.linalg.norm(at - a.centre, axis=1) / a.extent for a in areas])
    away[masks[:, y, x] == 0] = np.inf
    out = masks.copy()
    out[:, y, x] *= away.argmin(0) == np.arange(len(areas))[:, None]
    return np.asarray(out)


@lru_cache(maxsize=1)
def person_segmenter() -> PersonSegmenter:
    """The bundled network, loaded once."""
    return PersonSegmenter()
