"""Finding faces and their 468 landmarks: BlazeFace (short range) and the face mesh, in plain torch.

A picture may hold several faces; a video is one face followed from frame to frame. Non-goals: who a face
is, iris points, faces of less than about 8 % of the picture's side. The paper (section 3) takes a face
region as given; here is where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from .crops import Squares, sample_squares
from .tflite_graph import TfliteGraph
from .topology import COUNT, LEFT_EYE, RIGHT_EYE

ASSETS = Path(__file__).parents[1] / "assets" / "face"
DETECTOR_SIZE, MESH_SIZE = 128, 192
DETECTOR_BATCH, MESH_BATCH = 8, 8  # larger ones leave the CPU's cache and run slower
MARGIN = 1.5  # side of the mesh's crop over the face's extent
MARGINS_OF_PICTURE = (1.0, 1.6)  # a face that fills the picture is only found with black round it
CANDIDATES = 16
LARGEST = 2048  # pixels of a side: more detail than the mesh can use, and slow to handle
OVERLAP = 0.3  # two boxes that share more are one face
SURE_OF_ANOTHER = 0.6  # the detector's score of a second face: a fold of a curtain must not make two of one
SMALLEST_SHARE = 0.3  # faces below this share of the largest one are background
RECROPS = 3  # for a face that jumped: each look brings the crop nearer
TRACK_SHIFT, TRACK_TURN = 0.06, 0.1  # share of the side, radians: a face that moved further is cropped again
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class FaceBox:
    """What the detector saw: box (x0, y0, x1, y1), two eyes (2, 2) as the picture shows them, score 0..1."""

    box: Box
    eyes: np.ndarray
    score: float


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face the mesh agrees on: landmarks (468, 3) in pixels (depth in pixels too), score 0..1."""

    landmarks: np.ndarray
    score: float

    @cached_property
    def box(self) -> Box:
        """Smallest upright box round the landmarks."""
        low, high = self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def extent(self) -> float:
        """Longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class FaceMesh:
    """Both networks; holds no state between calls, so one instance serves any number of threads."""

    def __init__(self, device: torch.device | str = "cpu", assets: Path = ASSETS) -> None:
        self.detector = TfliteGraph(assets / "face_detection_short_range.safetensors", device)
        self.mesh = TfliteGraph(assets / "face_landmark.safetensors", device)
        self.anchors = _anchors()

    def detect(self, rgb: np.ndarray) -> list[FaceBox]:
        """Boxes that may be faces, best first, of a picture (H, W, 3) uint8; `faces` asks the mesh as well."""
        check_picture(rgb)
        height, width = rgb.shape[:2]
        views = [_whole(width, height, margin) for margin in MARGINS_OF_PICTURE]
        found = self._detect(rgb, views)
        return found or self._detect(rgb, _tiles(width, height))

    def faces(self, rgb: np.ndarray) -> list[Face]:
        """All faces of a picture (H, W, 3) uint8, from left to right, tiny ones in the background left out."""
        check_picture(rgb)
        rgb, shrunk = _shrunk(rgb)
        found = self.detect(rgb)[:CANDIDATES]
        if not found:
            return []
        squares = Squares.join([square_of_box(b) for b in found])
        landmarks, _ = self.landmarks_in(rgb[None], squares)
        landmarks, presence = self.landmarks_in(rgb[None], squares_of(landmarks))  # again, now that the place is known better
        faces: list[Face] = []
        for box, points, score in zip(found, landmarks, sigmoid(presence), strict=True):
            face = Face(landmarks=_enlarged(points, shrunk), score=float(score))
            doubtful = score <= 0.5 or (faces and box.score < SURE_OF_ANOTHER)
            if not doubtful and not any(same_place(face.box, other.box) for other in faces):
                faces.append(face)
        largest = max((f.extent for f in faces), default=0.0)
        return sorted((f for f in faces if f.extent > SMALLEST_SHARE * largest), key=lambda f: f.box[0] + f.box[2])

    def __call__(self, rgb: np.ndarray, face_index: int | None = None) -> np.ndarray:
        """Landmarks (468, 3) in pixels of one face; InputError for no face, or several where none is chosen."""
        return self.face(rgb, face_index).landmarks

    def face(self, rgb: np.ndarray, face_index: int | None = None) -> Face:
        """The only face, or number `face_index` from the left; InputError as in `__call__`."""
        faces = self.faces(rgb)
        if not faces:
            _no_face(rgb)
        if face_index is None and len(faces) > 1:
            where = ", ".join(f"{i} at ({(f.box[0] + f.box[2]) / 2:.0f}, {(f.box[1] + f.box[3]) / 2:.0f})" for i, f in enumerate(faces))
            raise InputError(
                "image", f"{len(faces)} faces ({where})", "one face is asked for",
                f"choose face 0 to {len(faces) - 1}, counted from the left, or crop the picture to one face")
        if face_index is not None and not 0 <= face_index < len(faces):
            raise InputError(
                "face", face_index, f"the picture has {len(faces)} face{'s' * (len(faces) > 1)}, counted from the left, the first is 0",
                "choose 0" if len(faces) == 1 else f"choose 0 to {len(faces) - 1}")
        return faces[face_index or 0]

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
            first = next(((i, p) for i, f in enumerate(frames) if (p := self._largest(f)) is not None), None)
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
            again = self._largest(frames[i])
            out[i] = np.nan if again is None else again
        seen = np.flatnonzero(~np.isnan(out[:, 0, 0]))
        return out, squares_of(out[seen[-1:]]) if len(seen) else None

    def _largest(self, rgb: np.ndarray) -> np.ndarray | None:
        faces = self.faces(rgb)
        return max(faces, key=lambda f: f.extent).landmarks if faces else None

    def landmarks_in(self, pictures: np.ndarray, squares: Squares) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N, 468, 3) in the picture and presence logits (N,) of N squares of N pictures, or of one."""
        points, presence = [], []
        for i in range(0, len(squares), MESH_BATCH):
            part = slice(i, i + MESH_BATCH)
            crops = sample_squares(pictures if len(pictures) == 1 else pictures[part], squares[part], MESH_SIZE)
            out = self.mesh(crops / 255)
            points.append(out["conv2d_21"].reshape(-1, COUNT, 3).cpu().numpy())
            presence.append(out["conv2d_31"].reshape(-1).cpu().numpy())
        landmarks = squares.to_picture(np.concatenate(points).astype(np.float64), MESH_SIZE)
        return landmarks.astype(np.float32), np.concatenate(presence)

    def _detect(self, rgb: np.ndarray, views: list[Box]) -> list[FaceBox]:
        """Boxes seen in square views (x, y, side, side) of a picture; the best of overlapping ones."""
        found: list[FaceBox] = []
        for i in range(0, len(views), DETECTOR_BATCH):
            part = views[i : i + DETECTOR_BATCH]
            tensor = torch.from_numpy(np.stack([_view(rgb, v) for v in part])).permute(0, 3, 1, 2).float()
            out = self.detector(tensor / 127.5 - 1)
            scores = sigmoid(out["classificators"][..., 0].cpu().numpy())
            values = out["regressors"].cpu().numpy().reshape(len(part), -1, 8, 2)
            for view, s, v in zip(part, scores, values, strict=True):
                found += self._boxes(view, s, v)
        found.sort(key=lambda b: -b.score)
        kept: list[FaceBox] = []
        for box in found:
            if not any(overlap(box.box, k.box) > OVERLAP for k in kept):
                kept.append(box)
        return kept

    def _boxes(self, view: Box, scores: np.ndarray, values: np.ndarray) -> list[FaceBox]:
        """Candidates of one view: values (896, 8, 2) are centre, size and six points in the view's 128 pixels."""
        x, y, side, _ = view
        k = side / DETECTOR_SIZE
        boxes = []
        for i in np.flatnonzero(scores > 0.5):
            points = (values[i, [0, 2, 3]] + self.anchors[i] * DETECTOR_SIZE) * k + [x, y] - 0.5
            half = values[i, 1] * k / 2
            low, high = points[0] - half, points[0] + half
            boxes.append(FaceBox(
                box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])), eyes=points[1:], score=float(scores[i])))
        return boxes


def check_picture(rgb: np.ndarray) -> None:
    """ValueError unless (H, W, 3) uint8: other formats are for media to convert."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")


def squares_of(landmarks: np.ndarray) -> Squares:
    """The mesh's crops for landmarks (N, 468, 3): upright eyes, the face in the middle."""
    low, high = landmarks[:, :, :2].min(1), landmarks[:, :, :2].max(1)
    across = landmarks[:, list(LEFT_EYE), :2].mean(1) - landmarks[:, list(RIGHT_EYE), :2].mean(1)
    side = np.maximum((high - low).max(1) * MARGIN, 1.0)
    return Squares(
        centre=((low + high) / 2).astype(np.float64), side=side.astype(np.float64),
        angle=np.arctan2(across[:, 1], across[:, 0]).astype(np.float64))


def _no_face(rgb: np.ndarray) -> NoReturn:
    raise InputError(
        "image", f"{rgb.shape[1]}x{rgb.shape[0]} pixels", "no face found",
        "use a picture of a face that looks at the camera and is at least a tenth of the picture's side, or crop it closer")


def _shrunk(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """A picture of at most LARGEST pixels a side, and the whole number it was shrunk by."""
    factor = -(-max(rgb.shape[:2]) // LARGEST)
    return (rgb, 1) if factor <= 1 else (np.asarray(Image.fromarray(rgb).reduce(factor)), factor)


def _enlarged(points: np.ndarray, factor: int) -> np.ndarray:
    """Landmarks (468, 3) of a shrunk picture in the pixels of the original."""
    centre = np.array([0.5, 0.5, 0.0])  # of a pixel
    return points if factor == 1 else ((points + centre) * factor - centre).astype(np.float32)


def _anchors() -> np.ndarray:
    """(896, 2) in 0..1, one per output: 16x16 cells with 2 anchors, then 8x8 cells with 6."""
    cells = [((x + 0.5) / g, (y + 0.5) / g) for g, n in ((16, 2), (8, 6)) for y in range(g) for x in range(g) for _ in range(n)]
    return np.array(cells)


def _whole(width: int, height: int, margin: float) -> Box:
    side = max(width, height) * margin
    return (width - side) / 2, (height - side) / 2, side, side


def _tiles(width: int, height: int) -> list[Box]:
    """Views of half the shorter side, overlapping by half: for small faces."""
    side = min(width, height) / 2
    steps = [np.linspace(0, n - side, max(2, min(8, int(np.ceil(2 * n / side)) - 1))) for n in (width, height)]
    return [(float(x), float(y), side, side) for y in steps[1] for x in steps[0]]


def _view(rgb: np.ndarray, view: Box) -> np.ndarray:
    """(128, 128, 3) uint8 of a square view, black beyond the picture."""
    x, y, side, _ = view
    height, width = rgb.shape[:2]
    k = DETECTOR_SIZE / side
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + side, float(width)), min(y + side, float(height))
    size = max(1, round((x1 - x0) * k)), max(1, round((y1 - y0) * k))
    part = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX if k < 1 else Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))
    out = np.zeros((DETECTOR_SIZE, DETECTOR_SIZE, 3), np.uint8)
    left, top = min(round((x0 - x) * k), DETECTOR_SIZE - size[0]), min(round((y0 - y) * k), DETECTOR_SIZE - size[1])
    out[top : top + size[1], left : left + size[0]] = part
    return out


def square_of_box(found: FaceBox) -> Squares:
    x0, y0, x1, y1 = found.box
    across = found.eyes[1] - found.eyes[0]
    return Squares(
        centre=np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]), side=np.array([max((x1 - x0) * MARGIN, 1.0)]),
        angle=np.array([np.arctan2(across[1], across[0])]))


def _moved(before: Squares, after: Squares) -> np.ndarray:
    """(N,) bool: the face left the middle of its crop, changed size or turned."""
    shift = np.abs(after.centre - before.centre).max(1) / before.side
    size = np.abs(after.side / before.side - 1)
    turn = np.abs((after.angle - before.angle + np.pi) % (2 * np.pi) - np.pi)
    return np.asarray((shift > TRACK_SHIFT) | (size > 2 * TRACK_SHIFT) | (turn > TRACK_TURN))


def shared_area(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def area(a: Box) -> float:
    return max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    shared = shared_area(a, b)
    return shared / (area(a) + area(b) - shared + 1e-9)


def same_place(a: Box, b: Box) -> bool:
    """One face seen twice: the detector also likes eyes, from which the mesh finds the whole face again."""
    return shared_area(a, b) > 0.5 * min(area(a), area(b))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
