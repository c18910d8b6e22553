"""The face of a portrait and the face of a video: 468 landmarks of the one that is meant, followed from frame to frame.

Non-goals: finding faces (search), choosing one (choice), who a face is, iris points.
"""

from __future__ import annotations

import numpy as np

from .choice import choose
from .crops import Squares
from .networks import MESH_BATCH, Face, FaceNetworks, check_picture, sigmoid, squares_of
from .search import FaceFinder, faces_of_frame, glance, only_face
from .topology import COUNT

RECROPS = 3  # for a face that jumped: each look brings the crop nearer
TRACK_SHIFT, TRACK_TURN = 0.06, 0.1  # share of the side, radians: a face that moved further is cropped again


class FaceMesh(FaceNetworks):
    """Both networks and what they are asked for most; holds no state between calls, so one instance serves any number of threads."""

    def faces(self, rgb: np.ndarray) -> list[Face]:
        """All faces of a picture (H, W, 3) uint8 in reading order; a face's number is its place here, in every command and node."""
        return FaceFinder(mesh=self)(rgb)

    def __call__(self, rgb: np.ndarray, face_index: int | None = None) -> np.ndarray:
        """Landmarks (468, 3) in pixels of one face; InputError for no face, or several where none is chosen."""
        return self.face(rgb, face_index).landmarks

    def face(self, rgb: np.ndarray, face_index: int | None = None) -> Face:
        """The only prominent face, or number `face_index` of all; InputError as in `__call__`."""
        only = only_face(self, rgb) if face_index is None else None
        return only or choose(self.faces(rgb), face_index, (rgb.shape[1], rgb.shape[0]))

    def landmarks_batch(self, frames: np.ndarray, hint: np.ndarray | None = None) -> np.ndarray:
        """Landmarks (T, 468, 3) of one face in video frames (T, H, W, 3) uint8; NaN where no face is found.

        `hint` (468, 3): where the face was just before frame 0, None or NaN if unknown. The face is followed;
        once lost it is searched again (the largest face is taken).
        """
        check_picture(frames[0])
        square = None if hint is None or np.isnan(hint).any() else squares_of(hint[None])
        parts = []
        for start in range(0, len(frames), MESH_BATCH):
            landmarks, square = self._follow(frames[start : start + MESH_BATCH], square)
            parts.append(landmarks)
        return np.concatenate(parts)

    def _follow(self, frames: np.ndarray, square: Squares | None) -> tuple[np.ndarray, Squares | None]:
        """Landmarks of a short run of frames and the square to look at next."""
        out = np.full((len(frames), COUNT, 3), np.nan, np.float32)
        if square is None:
            # small faces are looked for in one frame of the run only: a video without a face is not to take long
            found = (_largest(faces_of_frame(self, f) if i == 0 else glance(self, f).faces) for i, f in enumerate(frames))
            first = next(((i, points) for i, points in enumerate(found) if points is not None), None)
            if first is None:
                return out, None
            landmarks, square = self._follow(frames[first[0] :], squares_of(first[1][None]))
            out[first[0] :] = landmarks
            return out, square
        squares = square.repeat(len(frames))
        out, presence = self.landmarks_in(frames, squares)
        moved = np.arange(len(frames))
        for _ in range(RECROPS):
            after = squares_of(out[moved])
            far = _moved(squares, after)
            if not far.any():
                break
            moved, squares = moved[far], after[far]
            out[moved], presence[moved] = self.landmarks_in(frames[moved], squares)
        for i in np.flatnonzero(sigmoid(presence) <= 0.5):
            again = _largest(glance(self, frames[i]).faces)
            out[i] = np.nan if again is None else again
        seen = np.flatnonzero(~np.isnan(out[:, 0, 0]))
        return out, squares_of(out[seen[-1:]]) if len(seen) else None


def _largest(faces: list[Face]) -> np.ndarray | None:
    return max(faces, key=lambda f: f.extent).landmarks if faces else None


def _moved(before: Squares, after: Squares) -> np.ndarray:
    """(N,) bool: the face left the middle of its crop, changed size or turned."""
    shift = np.abs(after.centre - before.centre).max(1) / before.side
    size = np.abs(after.side / before.side - 1)
    turn = np.abs((after.angle - before.angle + np.pi) % (2 * np.pi) - np.pi)
    return np.asarray((shift > TRACK_SHIFT) | (size > 2 * TRACK_SHIFT) | (turn > TRACK_TURN))
