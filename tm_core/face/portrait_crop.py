"""A picture becomes what a model animates: a square crop round its face, or the picture itself at the model's size.

The crop never leaves the picture unless the face itself fills it; then the picture's edge is mirrored.
Deterministic: the same picture gives the same pixels. Non-goals: several speakers in one scene, pasting back.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import InputError
from .mesh import FaceMesh
from .networks import Box, Face

log = logging.getLogger(__name__)

HALF_SIDE = 0.85  # of the face's longer extent: room for hair and jaw
RAISED = 0.05  # the crop's centre above the face's centre, of the half side: the mesh ends at the forehead
LEAST_HALF = 0.58  # of the extent: below this the face would be cut, so the picture is extended instead
SMALL, UNUSABLE = 64, 28  # pixels of the face in the picture


@dataclass(frozen=True, kw_only=True)
class PortraitCrop:
    """Crop (H, W, 3) uint8, landmarks (468, 3) in its pixels ((0, 3) where no face was found), and where it lies in the picture.

    `box` (x0, y0, x1, y1) counts the picture's pixel edges from its top left corner, so it may be fractional,
    and beyond the picture where that was extended.
    """

    image: np.ndarray
    landmarks: np.ndarray
    box: Box


def crop_portrait(rgb: np.ndarray, size: int, mesh: FaceMesh, face_index: int | None = None) -> PortraitCrop:
    """Crop (size, size) round one face of a picture (H, W, 3) uint8.

    InputError for no face, several where none is chosen (`face_index` counts in reading order), a face too small.
    """
    return cut_portrait(rgb, size, mesh.face(rgb, face_index))


def cut_portrait(rgb: np.ndarray, size: int, face: Face) -> PortraitCrop:
    """Crop (size, size) round a face that is known; InputError for one too small."""
    _check_extent(face.extent)
    box = crop_box(face, (rgb.shape[1], rgb.shape[0]))
    image = resample(rgb, box, size)
    return PortraitCrop(image=image, landmarks=into_crop(face.landmarks, box, size), box=box)


def frame_picture(rgb: np.ndarray, size: tuple[int, int], chosen: Sequence[Face]) -> PortraitCrop:
    """As much of a picture (H, W, 3) uint8 as `size` (width, height) has the shape for.

    The faces stay as near to the middle as the picture allows, the first one's landmarks are kept; without any the middle is.
    """
    box = cover_box((rgb.shape[1], rgb.shape[0]), size, chosen)
    landmarks = into_crop(chosen[0].landmarks, box, size[0]) if chosen else np.zeros((0, 3), np.float32)
    return PortraitCrop(image=resample(rgb, box, size), landmarks=landmarks, box=box)


def cover_box(extent: tuple[int, int], size: tuple[int, int], faces: Sequence[Face]) -> Box:
    """The largest box of the shape of `size` (width, height) in a picture of `extent`, its middle at the faces' where it can be."""
    scale = min(extent[0] / size[0], extent[1] / size[1])
    half = np.array(size) * scale / 2
    middle = np.array(extent) / 2
    if faces:
        corners = np.array([face.box for face in faces])
        middle = (corners[:, :2].min(0) + corners[:, 2:].max(0)) / 2 + 0.5
    centre = np.clip(middle, half, np.array(extent) - half)
    return float(centre[0] - half[0]), float(centre[1] - half[1]), float(centre[0] + half[0]), float(centre[1] + half[1])


def crop_box(face: Face, extent: tuple[int, int]) -> Box:
    """Square (x0, y0, x1, y1) round a face in a picture of `extent` (width, height)."""
    x0, y0, x1, y1 = face.box
    room = min(extent) / 2
    half = max(min(face.extent * HALF_SIDE, room), face.extent * LEAST_HALF)
    centre = np.array([x0 + x1, y0 + y1]) / 2 + 0.5 - [0, RAISED * half]
    if half <= room:
        centre = np.clip(centre, half, np.array(extent) - half)
    else:  # the face fills the picture: extended on the shorter side only
        centre = np.where(half <= np.array(extent) / 2, np.clip(centre, half, np.maximum(np.array(extent) - half, half)), centre)
    return float(centre[0] - half), float(centre[1] - half), float(centre[0] + half), float(centre[1] + half)


def resample(picture: np.ndarray, box: Box, size: int | tuple[int, int]) -> np.ndarray:
    """(height, width, ...) of a picture's box (pixel edges), averaged when shrinking, mirrored beyond the edge.

    size: (width, height), or one number for both.
    """
    # only what the box needs is copied: pictures may have a hundred megapixels
    left, top = max(0, int(box[0]) - 1), max(0, int(box[1]) - 1)
    picture = picture[top : max(top + 1, int(np.ceil(box[3])) + 1), left : max(left + 1, int(np.ceil(box[2])) + 1)]
    box = box[0] - left, box[1] - top, box[2] - left, box[3] - top
    height, width = picture.shape[:2]
    pads = [int(np.ceil(max(0.0, v))) for v in (-box[1], box[3] - height, -box[0], box[2] - width)]
    if any(pads):
        widths = [(pads[0], pads[1]), (pads[2], pads[3]), *[(0, 0)] * (picture.ndim - 2)]
        picture = np.pad(picture, widths, mode="symmetric")
        box = (box[0] + pads[2], box[1] + pads[0], box[2] + pads[2], box[3] + pads[0])
    # rounding may leave the box a hair outside, which PIL refuses
    limit = float(picture.shape[1]), float(picture.shape[0])
    inside = max(box[0], 0.0), max(box[1], 0.0), min(box[2], limit[0]), min(box[3], limit[1])
    source = Image.fromarray(np.ascontiguousarray(picture))
    wanted = (size, size) if isinstance(size, int) else size
    return np.asarray(source.resize(wanted, Image.Resampling.LANCZOS, box=inside, reducing_gap=3.0))


def into_crop(landmarks: np.ndarray, box: Box, width: int) -> np.ndarray:
    """Landmarks (468, 3) of the picture in the pixels of its crop."""
    k = width / (box[2] - box[0])
    flat = (landmarks[:, :2] + 0.5 - np.array(box[:2])) * k - 0.5
    return np.concatenate([flat, landmarks[:, 2:] * k], 1).astype(np.float32)


def _check_extent(extent: float) -> None:
    if extent < UNUSABLE:
        raise InputError(
            "image", f"a face of {extent:.0f} pixels", f"faces below {UNUSABLE} pixels cannot be animated",
            f"use a larger picture, the face {SMALL} pixels high or more")
    if extent < SMALL:
        log.warning("the face is only %.0f pixels high: the video will look soft; %d or more is better", extent, SMALL)
