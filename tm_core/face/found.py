"""What the face nodes and commands call: find the faces of a picture, mask them, show them.

Non-goals: how (search, regions, overlay). No section of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import InputError
from .choice import choose
from .mesh import FaceMesh
from .networks import Face
from .overlay import overlay
from .regions import MaskChoices, Source, face_masks
from .search import MOST, SMALLEST, FaceFinder, only_face


@dataclass(frozen=True, kw_only=True)
class Faces:
    """The faces of one picture in reading order, and its size in pixels."""

    faces: tuple[Face, ...]
    width: int
    height: int

    def check_picture(self, rgb: np.ndarray) -> None:
        """InputError for a picture (H, W, 3) of another size than theirs."""
        if (self.width, self.height) != (rgb.shape[1], rgb.shape[0]):
            raise InputError(
                "faces", f"found in {self.width}x{self.height} pixels", f"the picture has {rgb.shape[1]}x{rgb.shape[0]}",
                "connect the same picture")

    def face(self, rgb: np.ndarray, index: int | None) -> Face:
        """The one that is meant in the picture they were found in (choice.choose); InputError for another picture as well."""
        self.check_picture(rgb)
        return choose(self.faces, index, (self.width, self.height))


@lru_cache(maxsize=1)
def shared_mesh() -> FaceMesh:
    """The bundled networks, loaded once."""
    return FaceMesh()


def find_faces(rgb: np.ndarray, *, smallest: float = SMALLEST, most: int = MOST) -> Faces:
    """All faces of a picture (H, W, 3) uint8; none is no error."""
    faces = FaceFinder(mesh=shared_mesh(), smallest=smallest, most=most)(rgb)
    return Faces(faces=tuple(faces), width=rgb.shape[1], height=rgb.shape[0])


def faces_to_choose_from(rgb: np.ndarray, index: int | None) -> Faces:
    """What a choice of one face of a picture (H, W, 3) needs: without a number the only prominent face, if there is one, else all."""
    only = only_face(shared_mesh(), rgb) if index is None else None
    return find_faces(rgb) if only is None else Faces(faces=(only,), width=rgb.shape[1], height=rgb.shape[0])


def numbered(rgb: np.ndarray, found: Faces) -> np.ndarray:
    """The picture with each face framed and numbered from 0."""
    return overlay(rgb, boxes=[f.box for f in found.faces])


def mask_faces(rgb: np.ndarray, sources: Sequence[Source] | Faces | None, choices: MaskChoices) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) and the picture tinted with them; without sources the picture's own faces. InputError where there is no face."""
    height, width = rgb.shape[:2]
    sources = find_faces(rgb) if sources is None else sources
    if isinstance(sources, Faces):
        sources.check_picture(rgb)
        sources = sources.faces
    if not sources:
        raise InputError(
            "image", f"{width}x{height} pixels", "no face found",
            "lower the smallest face in Find Faces, or give a mask or a box for each face")
    masks = face_masks(sources, (width, height), choices, rgb=rgb)
    return masks, overlay(rgb, masks)
