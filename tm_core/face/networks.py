"""BlazeFace (short range) and the face mesh in plain torch: boxes that may be faces, and the 468 landmarks of a square.

Non-goals: which of the boxes are faces (search), which face is meant (choice), video (mesh). The paper (section 3) takes
a face region as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .crops import Squares, sample_squares
from .tflite_graph import TfliteGraph
from .topology import COUNT, LEFT_EYE, RIGHT_EYE

ASSETS = Path(__file__).parents[1] / "assets" / "face"
DETECTOR_SIZE, MESH_SIZE = 128, 192
CELLS = ((8, 2), (16, 6))  # pixels and answers of the detector's cells
MESH_BATCH = 8  # larger ones leave the CPU's cache and run slower
MARGIN = 1.5  # side of the mesh's crop over the face's extent
MARGINS_OF_PICTURE = (1.0, 1.6)  # a face that fills the picture is only found with black round it
SCORE = 0.5  # the detector's, from which a box may be a face
OVERLAP = 0.3  # two boxes that share more are one face
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


class FaceNetworks:
    """Both networks; holds no state between calls, so one instance serves any number of threads."""

    def __init__(self, device: torch.device | str = "cpu", assets: Path = ASSETS) -> None:
        self.detector = TfliteGraph(assets / "face_detection_short_range.safetensors", device)
        self.mesh = TfliteGraph(assets / "face_landmark.safetensors", device)

    def detect(
        self, rgb: np.ndarray, *, margins: Sequence[float] = MARGINS_OF_PICTURE, pixels: int = DETECTOR_SIZE, least: float = SCORE,
    ) -> list[FaceBox]:
        """Boxes that may be faces in a whole picture (H, W, 3) uint8, best first, each place once; scores above `least`.

        The picture is looked at in squares of `pixels`, their sides the margins times its longer side.
        """
        check_picture(rgb)
        picture = Image.fromarray(rgb)
        views = [_whole(picture.width, picture.height, margin) for margin in margins]
        tensor = torch.from_numpy(np.stack([_view(picture, view, pixels) for view in views])).permute(0, 3, 1, 2).float()
        out = self.detector(tensor / 127.5 - 1)
        scores = sigmoid(out["classificators"][..., 0].cpu().numpy())
        values = out["regressors"].cpu().numpy().reshape(len(views), -1, 8, 2)
        found = [box for view, s, v in zip(views, scores, values, strict=True) for box in _boxes(view, pixels, s, v, least)]
        kept: list[FaceBox] = []
        for box in sorted(found, key=lambda b: -b.score):
            if not any(overlap(box.box, k.box) > OVERLAP for k in kept):
                kept.append(box)
        return kept

    def landmarks_in(self, pictures: np.ndarray, squares: Squares) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N, 468, 3) in the picture and presence logits (N,) of N squares of N pictures, or of one."""
        points, presence = [], []
        for i in range(0, len(squares), MESH_BATCH):
            part = slice(i, i + MESH_BATCH)
            crops = _crops(pictures if len(pictures) == 1 else pictures[part], squares[part])
            out = self.mesh(crops / 255)
            points.append(out["conv2d_21"].reshape(-1, COUNT, 3).cpu().numpy())
            presence.append(out["conv2d_31"].reshape(-1).cpu().numpy())
        landmarks = squares.to_picture(np.concatenate(points).astype(np.float64), MESH_SIZE)
        return landmarks.astype(np.float32), np.concatenate(presence)


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


def cells(width: int, height: int) -> np.ndarray:
    """(answers, 2): where the detector's answers for a picture belong, in its pixels."""
    parts = []
    for pixels, answers in CELLS:
        x, y = np.meshgrid(np.arange(width // pixels), np.arange(height // pixels))
        parts.append((np.stack([x, y], -1).reshape(-1, 1, 2) + 0.5).repeat(answers, 1).reshape(-1, 2) * pixels)
    return np.concatenate(parts)


def _boxes(view: Box, pixels: int, scores: np.ndarray, values: np.ndarray, least: float) -> list[FaceBox]:
    """Candidates of one view: values (answers, 8, 2) are centre, size and six points in the view's pixels."""
    x, y, side, _ = view
    k, at = side / pixels, cells(pixels, pixels)
    boxes = []
    for i in np.flatnonzero(scores > least):
        points = (values[i, [0, 2, 3]] + at[i]) * k + [x, y] - 0.5
        half = values[i, 1] * k / 2
        low, high = points[0] - half, points[0] + half
        boxes.append(FaceBox(box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])), eyes=points[1:], score=float(scores[i])))
    return boxes


def _whole(width: int, height: int, margin: float) -> Box:
    side = max(width, height) * margin
    return (width - side) / 2, (height - side) / 2, side, side


def _view(picture: Image.Image, view: Box, pixels: int) -> np.ndarray:
    """(pixels, pixels, 3) uint8 of a square view, black beyond the picture."""
    x, y, side, _ = view
    k = pixels / side
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + side, float(picture.width)), min(y + side, float(picture.height))
    size = max(1, round((x1 - x0) * k)), max(1, round((y1 - y0) * k))
    part = np.asarray(picture.resize(size, Image.Resampling.BOX if k < 1 else Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))
    out = np.zeros((pixels, pixels, 3), np.uint8)
    left, top = min(round((x0 - x) * k), pixels - size[0]), min(round((y0 - y) * k), pixels - size[1])
    out[top : top + size[1], left : left + size[0]] = part
    return out


def _crops(pictures: np.ndarray, squares: Squares) -> torch.Tensor:
    if len(pictures) > 1:
        return sample_squares(pictures, squares, MESH_SIZE)
    # faces of one picture may lie far apart: together they would need all that is between them
    return torch.cat([sample_squares(pictures, squares[i : i + 1], MESH_SIZE) for i in range(len(squares))])


def square_of_box(found: FaceBox) -> Squares:
    x0, y0, x1, y1 = found.box
    across = found.eyes[1] - found.eyes[0]
    return Squares(
        centre=np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]), side=np.array([max((x1 - x0) * MARGIN, 1.0)]),
        angle=np.array([np.arctan2(across[1], across[0])]))


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
