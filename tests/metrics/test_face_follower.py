"""Faces followed through blocks: numbers stay, a cut gives new ones, a face that comes is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import overlap
from tm_core.metrics.face_follower import FaceFollower, FaceRun

SIDE, T = 160, 3


@pytest.fixture(scope="module")
def face(assets: Path) -> np.ndarray:
    """The bundled portrait (H, W, 3)."""
    return np.asarray(Image.open(assets / "portraits" / "demo.jpg").convert("RGB").resize((SIDE, SIDE)))


def block(*pictures: np.ndarray) -> np.ndarray:
    """T equal frames of pictures side by side."""
    return np.repeat(np.concatenate(pictures, 1)[None], T, 0)


def push(follower: FaceFollower, frames: np.ndarray, hint: np.ndarray | None = None) -> list[FaceRun]:
    return follower.push(frames, follower.mesh.landmarks_batch(frames, hint))


def middles(runs: list[FaceRun]) -> dict[int, int]:
    """Where each face is: 0 the left picture, 1 the right one."""
    return {r.face: int(r.landmarks[0, :, 0].mean() // SIDE) for r in runs}


def test_two_faces_keep_their_numbers(mesh: FaceMesh, face: np.ndarray) -> None:
    follower, both = FaceFollower(mesh, 25.0), block(face, face[:, ::-1])
    first = push(follower, both)
    assert middles(first) == {0: 0, 1: 1} and all(len(r.landmarks) == T for r in first)
    assert middles(push(follower, both)) == middles(first)


def test_a_face_that_leaves_and_one_that_comes(mesh: FaceMesh, face: np.ndarray) -> None:
    follower, grey = FaceFollower(mesh, 25.0), np.full_like(face, 90)
    assert middles(push(follower, block(face, grey))) == {0: 0}
    assert middles(push(follower, block(face, face[:, ::-1]))) == {0: 0, 1: 1}
    left = follower.mesh.landmarks_batch(block(face, grey))[-1]
    assert middles(push(follower, block(grey, face[:, ::-1]), left)) == {1: 1}
    assert middles(push(follower, block(face, grey))) == {0: 0}  # back where it was, a moment later


def test_a_cut_within_a_block_is_another_face(mesh: FaceMesh, face: np.ndarray) -> None:
    grey = np.full_like(face, 90)
    frames = np.concatenate([block(face, grey), block(grey, face)])
    runs = push(FaceFollower(mesh, 25.0), frames)
    assert [(r.face, r.start, len(r.landmarks)) for r in runs] == [(0, 0, T), (1, T, T)]


def test_numbers_are_those_of_the_picture(mesh: FaceMesh, face: np.ndarray) -> None:
    """A row of one on the right, below it two: a follower that looks from the left would begin below."""
    grey = np.full_like(face, 90)
    frames = np.repeat(np.concatenate([np.concatenate([grey, face], 1), np.concatenate([face, face[:, ::-1]], 1)])[None], T, 0)
    runs = push(FaceFollower(mesh, 25.0), frames)
    assert [(r.face, *(r.landmarks[0, :, :2].mean(0) // SIDE)) for r in runs] == [(0, 1, 0), (1, 0, 1), (2, 1, 1)]


def test_nobody_is_no_run(mesh: FaceMesh, face: np.ndarray) -> None:
    assert push(FaceFollower(mesh, 25.0), block(np.full_like(face, 90))) == []


def test_overlap_is_shared_over_joined() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
