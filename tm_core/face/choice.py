"""Which of the faces of a picture is meant: the only one, the only large one, or a number in reading order.

The one place that decides it and that complains. Non-goals: finding faces (search).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .networks import Face

SMALLEST_SHARE = 0.3  # faces below this share of the largest one's extent are background
LISTED = 18  # faces whose places an error names


def prominent(faces: Sequence[Face]) -> list[Face]:
    """The faces that are not in the background, in the order given."""
    largest = max((face.extent for face in faces), default=0.0)
    return [face for face in faces if face.extent > SMALLEST_SHARE * largest]


def choose(faces: Sequence[Face], index: int | None, size: tuple[int, int]) -> Face:
    """Number `index` of all faces of a picture of `size` (width, height), None: the only prominent one; InputError where there is none."""
    if not faces:
        raise InputError(
            "image", f"{size[0]}x{size[1]} pixels", "no face found",
            "use a picture of a face that looks at the camera, crop it closer, or lower the smallest face in Find Faces")
    large = prominent(faces)
    if index is None and len(large) == 1:
        return large[0]
    if index is None:
        raise InputError("image", f"{len(faces)} faces ({_places(faces)})", "one face is asked for", _remedy(len(faces)))
    if not 0 <= index < len(faces):
        raise InputError("face", index, f"the picture has {_counted(faces)}", _remedy(len(faces)))
    return faces[index]


def _remedy(count: int) -> str:
    if count == 1:
        return "choose 0"
    return (
        f"choose face 0 to {count - 1}, numbered row by row from the left, or animate all of them: --face all,"
        " as nodes Find Faces, a Character for each face and Scene of Several Faces")


def _counted(faces: Sequence[Face]) -> str:
    return f"1 face, at {_place(faces[0])}" if len(faces) == 1 else f"{len(faces)} faces ({_places(faces)})"


def _places(faces: Sequence[Face]) -> str:
    named = [f"{i} at {_place(face)}" for i, face in enumerate(faces[:LISTED])]
    return ", ".join(named + ["..."] * (len(faces) > LISTED))


def _place(face: Face) -> str:
    return f"({(face.box[0] + face.box[2]) / 2:.0f}, {(face.box[1] + face.box[3]) / 2:.0f})"
