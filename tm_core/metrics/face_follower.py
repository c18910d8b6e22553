"""The faces of a video, each followed from block to block: who is where, for measures of one face at a time.

The first face is the one that `FaceMesh.landmarks_batch` follows by itself; the others are looked for at the first frame
of every block. In the first of all every face is, so numbers are those of a picture; later those that are not tiny. A face that
jumps (a cut, a tracker that fell onto its neighbour) is another one, until it is seen again where it was.
Non-goals: who somebody is, masks, tiny faces that come later.

Shapes: T frames, P = 468 landmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..face.mesh import FaceMesh
from ..face.networks import Box, Face, overlap
from ..face.search import faces_of_frame, reading_order

SAME = 0.3  # intersection over union from which two boxes are one face
JUMP = 0.2  # below this a face cannot have moved on from one frame to the next
MISSED_S = 2.0  # a face that was away for longer is a new one


@dataclass(frozen=True, kw_only=True)
class FaceRun:
    """A face in a row of frames of one block: number of the face, first frame within the block, landmarks (T, P, 3)."""

    face: int
    start: int
    landmarks: np.ndarray

    @property
    def frames(self) -> slice:
        """Where in the block."""
        return slice(self.start, self.start + len(self.landmarks))


@dataclass
class _Known:
    """The last that was seen of a face: landmarks (P, 3), the video's frame."""

    number: int
    landmarks: np.ndarray
    frame: int


@dataclass
class FaceFollower:
    """Feed it blocks of frames in order; numbers are given in the order of appearance, at once in reading order."""

    mesh: FaceMesh
    fps: float
    _known: list[_Known] = field(default_factory=list)
    _frame: int = 0
    _count: int = 0

    def push(self, frames: np.ndarray, main: np.ndarray) -> list[FaceRun]:
        """Runs of all faces in the block (T, H, W, 3) uint8; `main`: landmarks (T, P, 3) of the face that leads, NaN where none."""
        found = list(_stretches(main))
        for seed in self._others(frames[0], main[0]):
            own = next(_stretches(self.mesh.landmarks_batch(frames, seed)), None)
            if own is not None and not any(_meet(own, other) for other in found):
                found.append(own)
        named = self._named(_in_order(found))
        self._frame += len(frames)
        return named

    def _others(self, rgb: np.ndarray, main: np.ndarray) -> Iterator[np.ndarray]:
        """Landmarks (P, 3) of the faces to follow besides the leading one: those seen now and those seen just before."""
        taken = [] if np.isnan(main).any() else [box_of(main)]
        now = [face.landmarks for face in (faces_of_frame(self.mesh, rgb) if self._frame else self.mesh.faces(rgb))]
        before = [k.landmarks for k in self._known if k.frame == self._frame - 1]
        for landmarks in [*now, *before]:
            box = box_of(landmarks)
            if all(overlap(box, other) < SAME for other in taken):
                taken.append(box)
                yield landmarks

    def _named(self, found: list[tuple[int, np.ndarray]]) -> list[FaceRun]:
        runs = []
        for start, landmarks in found:
            known = self._same(landmarks[0], self._frame + start)
            known.landmarks, known.frame = landmarks[-1], self._frame + start + len(landmarks) - 1
            runs.append(FaceRun(face=known.number, start=start, landmarks=landmarks))
        return runs

    def _same(self, landmarks: np.ndarray, frame: int) -> _Known:
        """The face that was last seen here and is not being seen elsewhere now; a new one where there is none."""
        self._known = [k for k in self._known if frame - k.frame <= MISSED_S * self.fps]
        box = box_of(landmarks)
        here = [(overlap(box, box_of(k.landmarks)), k) for k in self._known if k.frame < frame]
        best = max(here, key=lambda pair: pair[0], default=None)
        if best is not None and best[0] >= SAME:
            return best[1]
        known = _Known(self._count, landmarks, frame)
        self._known.append(known)
        self._count += 1
        return known


def box_of(landmarks: np.ndarray) -> Box:
    """(x0, y0, x1, y1) round landmarks (P, 2 or 3)."""
    (x0, y0), (x1, y1) = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    return float(x0), float(y0), float(x1), float(y1)


def _stretches(landmarks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """First frame and landmarks (T, P, 3) of the parts in which a face is there and does not jump."""
    boxes = [None if np.isnan(points).any() else box_of(points) for points in landmarks]
    cuts = [i + 1 for i, (a, b) in enumerate(pairwise(boxes)) if a is None or b is None or overlap(a, b) < JUMP]
    for start, stop in pairwise([0, *cuts, len(boxes)]):
        if boxes[start] is not None:
            yield start, landmarks[start:stop]


def _in_order(parts: Sequence[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """By their first frame, those that begin together as one reads."""
    ordered: list[tuple[int, np.ndarray]] = []
    for start in sorted({start for start, _ in parts}):
        begun = [(Face(landmarks=points[0], score=1.0), points) for first, points in parts if first == start]
        places = {id(face): i for i, face in enumerate(reading_order([face for face, _ in begun]))}
        ordered += [(start, points) for _, points in sorted(begun, key=lambda pair: places[id(pair[0])])]
    return ordered


def _meet(a: tuple[int, np.ndarray], b: tuple[int, np.ndarray]) -> bool:
    """Whether two parts show one face at one time."""
    first, last = max(a[0], b[0]), min(a[0] + len(a[1]), b[0] + len(b[1])) - 1
    return any(overlap(box_of(a[1][i - a[0]]), box_of(b[1][i - b[0]])) >= SAME for i in {first, last} if first <= last)
