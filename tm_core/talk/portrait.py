"""Whom to animate: the step of a graph that takes a picture and finds what a voice may move. Paper section 3.

Shapes: H x W pixels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import InputError
from ..face.choice import prominent
from ..face.confidence import doubts, mouth_doubts
from ..face.found import Faces, faces_to_choose_from, shared_mesh
from ..face.light import PLAIN, Light, light_for_model
from ..face.mask import DEFAULT_FEATHER, crop_mask, face_mask
from ..face.mesh import FaceMesh
from ..face.networks import Face
from ..face.portrait_crop import PortraitCrop, cut_portrait, frame_picture

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """Whom to animate: the portrait at model size, the mask (H, W) of what the voice may move, and the whole picture (h, w, 3) uint8.

    `doubts` say why it may not talk well. `light`: by how much more of each colour the model sees than the picture has.
    """

    crop: PortraitCrop
    mask: np.ndarray
    picture: np.ndarray
    doubts: tuple[str, ...] = ()
    light: Light = PLAIN

    @property
    def image(self) -> Tensor:
        """The portrait (3, H, W) in 0..1 as the model sees it."""
        picture = torch.from_numpy(self.crop.image.copy()).permute(2, 0, 1).float().div(255.0)
        return picture if self.light == PLAIN else (picture * picture.new_tensor(self.light).view(3, 1, 1)).clamp(0, 1)


def face_mesh() -> FaceMesh:
    """The bundled face detector and mesh, loaded once."""
    return shared_mesh()


def prepare_portrait(
    rgb: np.ndarray, config: ModelConfig, *, face_index: int | None = None, mask: np.ndarray | None = None,
    faces: Faces | None = None, strict: bool = False,
) -> Portrait:
    """Whom to animate in a picture (H, W, 3) uint8, at model size.

    Models of faces get a crop round the face and its region; open checkpoints the picture, and the whole of it as the region
    unless it shows several faces. `mask` (any size, 0..1) over the whole picture replaces the region that is found; `faces`
    are those of the picture where they were looked for before, small or turned ones too. A face that a model of faces will hardly
    animate well is said in the log; `strict` refuses it.
    """
    faces = faces or faces_to_choose_from(rgb, face_index)
    if config.framing == "picture":
        return _framed_portrait(rgb, config, face_index, mask, faces)
    face = faces.face(rgb, face_index)
    crop = cut_portrait(rgb, config.width, face)
    region = face_mask(crop.landmarks, config.width) if mask is None else _own_mask(mask, crop, rgb)
    return Portrait(
        crop=crop, mask=region, picture=rgb, doubts=_doubts(face, rgb, strict), light=light_for_model(crop.image, crop.landmarks))


def _doubts(face: Face, rgb: np.ndarray, strict: bool) -> tuple[str, ...]:
    found = doubts(face) or mouth_doubts(face, rgb, face_mesh())
    if found and strict:
        raise InputError(
            "image", f"a face of {face.extent:.0f} pixels", f"it {' and '.join(found)}: it will hardly talk well",
            "use a face that looks towards the camera, its mouth in sight, or leave strict out")
    for reason in found:
        log.warning("the face %s: it will hardly talk well", reason)
    return tuple(f"the face {reason}" for reason in found)


def _own_mask(mask: np.ndarray, crop: PortraitCrop, rgb: np.ndarray) -> np.ndarray:
    region = crop_mask(mask, crop, rgb.shape[:2])
    if float(region.max(initial=0.0)) <= 0.0:
        raise InputError("mask", "empty", "marks nothing of the face", "paint the mouth region white, or leave the mask out")
    return region


def _framed_portrait(
    rgb: np.ndarray, config: ModelConfig, face_index: int | None, mask: np.ndarray | None, faces: Faces,
) -> Portrait:
    size = config.width, config.height
    large = prominent(faces.faces)
    free = face_index is None and (mask is not None or len(large) < 2)
    chosen = large if free else [faces.face(rgb, face_index)]  # says which faces there are, if none was chosen
    crop = frame_picture(rgb, size, chosen)
    if mask is not None:
        return Portrait(crop=crop, mask=_own_mask(mask, crop, rgb), picture=rgb)
    if len(large) > 1 or (large and chosen[0] is not large[0]):
        extent = np.ptp(crop.landmarks[:, 1]) / config.width
        return Portrait(crop=crop, mask=face_mask(crop.landmarks, size, float(DEFAULT_FEATHER * extent)), picture=rgb)
    return Portrait(crop=crop, mask=np.ones((config.height, config.width), np.float32), picture=rgb)
