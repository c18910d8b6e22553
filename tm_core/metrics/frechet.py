"""A Frechet distance between sets of talking-face clips over a packaged network: the bundled face mesh's trunk.

NOT the I3D distance of the literature, whose network cannot be had here: values compare runs of this bench with one
another, never with the paper's table. What a clip's part of 16 frames looks like (mean of the trunk's pooled features)
and how it moves (spread of their differences from frame to frame) are joined, turned by a fixed random rotation into
64 numbers; the distance is Frechet's between the two sets' Gaussians.

Shapes: T frames, N parts, D = 64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm

from ..errors import InputError
from ..face.crops import square_crops
from ..face.networks import ASSETS
from ..face.tflite_graph import TfliteGraph
from .syncnet import face_boxes

FRECHET_NAME = "Frechet distance over the face mesh's trunk (FMVD)"
PART, STEP, DIM, RIDGE, BATCH = 16, 8, 64, 1e-6, 32
SEED = 20250603
LEAST = 8  # parts: fewer say nothing about a spread


class VideoFeatures:
    """Features of a clip's parts; the network is loaded once."""

    def __init__(self, assets: Path = ASSETS) -> None:
        graph = TfliteGraph(assets / "face_landmark.safetensors")
        self._graph, self._tap = graph, _trunk_end(graph)
        self._turn: np.ndarray | None = None

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(N, 64) of frames (T, H, W, 3) uint8 with landmarks (T, 468, 3); InputError below 16 frames."""
        if len(frames) < PART:
            raise InputError("video", f"{len(frames)} frames", f"a part has {PART}", "measure a longer clip")
        pooled = self._pooled(frames, face_boxes(landmarks))
        starts = range(0, len(pooled) - PART + 1, STEP)
        parts = [pooled[s : s + PART] for s in starts]
        joined = np.stack([np.concatenate([p.mean(0), np.diff(p, axis=0).std(0) * 4]) for p in parts])
        if self._turn is None:
            square = np.random.default_rng(SEED).standard_normal((joined.shape[1], DIM))
            self._turn = np.linalg.qr(square)[0]
        return np.asarray(joined @ self._turn)

    def _pooled(self, frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        side = self._graph.input_hw[0]
        found = []
        for start in range(0, len(frames), BATCH):
            part = slice(start, start + BATCH)
            pictures = torch.from_numpy(np.ascontiguousarray(frames[part])).permute(0, 3, 1, 2).float() / 255
            crops = square_crops(pictures, boxes[part], side, beyond="border")
            inner = self._graph.inner(crops, self._tap)
            found.append(inner.mean((2, 3)).double().numpy())
        return np.concatenate(found)


def _trunk_end(graph: TfliteGraph) -> int:
    """Number of the widest feature map that is still a map of at least 6 x 6."""
    hw = graph.input_hw
    sizes = graph.sizes(torch.zeros(1, 3, *hw))
    maps = {i: s for i, s in sizes.items() if len(s) == 4 and min(s[2:]) >= 6}
    return max(maps, key=lambda i: (maps[i][1], i))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the Gaussians of two sets (N, D) and (M, D): squared distance of means plus that of spreads."""
    for name, rows in (("first", a), ("second", b)):
        if len(rows) < LEAST:
            raise InputError(f"{name} set", f"{len(rows)} parts", f"a spread needs at least {LEAST}", "measure more or longer clips")
    ridge = RIDGE * np.eye(a.shape[1])
    ca, cb = np.cov(a, rowvar=False) + ridge, np.cov(b, rowvar=False) + ridge
    root = sqrtm(ca @ cb)
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(root))
    return float(max(distance, 0.0))
