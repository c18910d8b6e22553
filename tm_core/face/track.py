"""Which face is which from frame to frame: a number for each, kept while others come, go and cross.

The mesh follows known faces; the finder looks for new ones now and then, and at once when one is lost. Faces and
numbers are matched by where a face should be by now and by how it looks in its own upright crop. Non-goals: knowing
a person again after a cut or a long absence; one face of a talking video (`FaceMesh.landmarks_batch` is quicker).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .crops import sample_squares
from .networks import Face, same_place, sigmoid, squares_of
from .search import FaceFinder, middle, reading_order

SEARCH_EVERY, PATIENCE = 10, 50  # frames between searches; frames a lost face keeps its number
LOOKS_SIDE = 24  # pixels of the crop that looks are compared in
LOOKS_WEIGHT = 4.0  # of a change of looks (0..2) against one face's size of way
LOOKS_MEMORY, PACE_MEMORY = 0.9, 0.7  # of the past, per frame
NEAR, NEARER_PER_FRAME, FARTHEST = 0.8, 0.1, 3.0  # way in face sizes that may be one face's, and per frame unseen
STRANGER, HALF_HIDDEN = 0.45, 1.0  # change of looks beyond which it is somebody else, and where another face hides part of it
CLOSE = 0.3  # of a face's box: another one that comes as near hides part of its crop
NEVER = 1e6


@dataclass(frozen=True, kw_only=True)
class TrackedFace:
    """A face of this frame and the number it keeps, from 0 in the order of coming."""

    number: int
    face: Face


@dataclass(kw_only=True)
class _Track:
    number: int
    face: Face
    looks: np.ndarray
    pace: np.ndarray  # pixels a frame
    unseen: int = 0

    def expected(self) -> np.ndarray:
        return np.asarray(np.array(middle(self.face)) + self.pace * (self.unseen + 1))


class FaceTracker:
    """Feed it frames (H, W, 3) uint8 in order; one tracker for one video."""

    def __init__(self, finder: FaceFinder, *, search_every: int = SEARCH_EVERY, patience: int = PATIENCE) -> None:
        self.finder, self.search_every, self.patience = finder, search_every, patience
        self._tracks: list[_Track] = []
        self._frames = self._given = 0

    def push(self, rgb: np.ndarray) -> list[TrackedFace]:
        """Faces of the next frame in reading order, each with its number."""
        seen = self._followed(rgb)
        if len(seen) < len(self._tracks) or self._frames % self.search_every == 0:
            seen += [face for face in self.finder(rgb) if not any(same_place(face.box, s.box) for s in seen)]
        self._frames += 1
        looks = _looks(rgb, seen)
        numbers = self._matched(seen, looks)
        by_face = dict(zip(map(id, seen), numbers, strict=True))
        return [TrackedFace(number=by_face[id(face)], face=face) for face in reading_order(seen)]

    def _followed(self, rgb: np.ndarray) -> list[Face]:
        """Faces the mesh sees where those of the last frame should be by now, each once."""
        known = [t for t in self._tracks if not t.unseen]
        if not known:
            return []
        shifted = np.stack([t.face.landmarks + np.array([*t.pace, 0.0], np.float32) for t in known])
        landmarks, presence = self.finder.mesh.landmarks_in(rgb[None], squares_of(shifted))
        faces = [Face(landmarks=p, score=float(s)) for p, s in zip(landmarks, sigmoid(presence), strict=True)]
        kept: list[Face] = []
        for i in np.argsort(-presence, kind="stable"):
            if faces[i].score > 0.5 and not any(same_place(faces[i].box, k.box) for k in kept):
                kept.append(faces[i])
        return kept

    def _matched(self, seen: list[Face], looks: np.ndarray) -> list[int]:
        """The number of each face; unmatched faces begin, unmatched tracks wait."""
        alone = [not any(_close(face, other) for other in seen if other is not face) for face in seen]
        costs = [[_cost(t, *about) for about in zip(seen, looks, alone, strict=True)] for t in self._tracks]
        cost = np.array(costs).reshape(len(self._tracks), len(seen))
        pairs = {int(j): self._tracks[i] for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < NEVER}
        for track in self._tracks:
            track.unseen += 1
        for j, track in pairs.items():
            _update(track, seen[j], looks[j], alone[j])
        for j in sorted(set(range(len(seen))) - pairs.keys()):
            pairs[j] = _Track(number=self._given, face=seen[j], looks=looks[j], pace=np.zeros(2))
            self._tracks.append(pairs[j])
            self._given += 1
        self._tracks = [t for t in self._tracks if t.unseen <= self.patience]
        return [pairs[j].number for j in range(len(seen))]


def _update(track: _Track, face: Face, looks: np.ndarray, alone: bool) -> None:
    way = (np.array(middle(face)) - middle(track.face)) / track.unseen
    track.pace = PACE_MEMORY * track.pace + (1 - PACE_MEMORY) * way
    if alone:  # half a stranger's face would be remembered otherwise
        track.looks = LOOKS_MEMORY * track.looks + (1 - LOOKS_MEMORY) * looks
    track.face, track.unseen = face, 0


def _cost(track: _Track, face: Face, looks: np.ndarray, alone: bool) -> float:
    way = float(np.linalg.norm(np.array(middle(face)) - track.expected())) / track.face.extent
    change = 1 - float(track.looks @ looks) / float(np.linalg.norm(track.looks) * np.linalg.norm(looks) + 1e-9)
    if way > min(NEAR + NEARER_PER_FRAME * track.unseen, FARTHEST) or change > (STRANGER if alone else HALF_HIDDEN):
        return NEVER
    return way + LOOKS_WEIGHT * change


def _close(a: Face, b: Face) -> bool:
    near = CLOSE * a.extent
    return all(a.box[i] - near < b.box[i + 2] and b.box[i] < a.box[i + 2] + near for i in range(2))


def _looks(rgb: np.ndarray, faces: list[Face]) -> np.ndarray:
    """(N, values) of unit length: colours of the upright crop round each face, brightness of the whole taken out."""
    if not faces:
        return np.zeros((0, 3 * LOOKS_SIDE**2))
    crops = sample_squares(rgb[None], squares_of(np.stack([f.landmarks for f in faces])), LOOKS_SIDE).flatten(1).numpy()
    centred = crops - crops.mean(1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9))
