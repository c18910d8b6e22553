"""Faces found, refused, ordered and followed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tm_core.errors import InputError
from tm_core.face.crops import Squares, sample_squares
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.face.topology import CHIN, FOREHEAD, LEFT_EYE, RIGHT_EYE


def test_landmarks_are_where_a_face_has_them(mesh: FaceMesh, demo: np.ndarray) -> None:
    p = mesh(demo)
    assert p.shape == (468, 3) and p.dtype == np.float32
    eyes = p[list(RIGHT_EYE), :2].mean(0), p[list(LEFT_EYE), :2].mean(0)
    assert eyes[0][0] < p[13, 0] < eyes[1][0]
    assert p[FOREHEAD, 1] < eyes[0][1] < p[13, 1] <= p[14, 1] + 1 < p[CHIN, 1]


@pytest.mark.parametrize("degrees", [-25, 0, 25])
def test_landmarks_turn_with_the_picture(degrees: int, mesh: FaceMesh, demo: np.ndarray) -> None:
    base = crop_portrait(demo, 256, mesh)
    turned = mesh(np.asarray(Image.fromarray(base.image).rotate(degrees, Image.Resampling.BICUBIC)))
    angle = -np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = (base.landmarks[:, :2] - 127.5) @ turn.T + 127.5
    assert np.median(np.linalg.norm(turned[:, :2] - expected, axis=1)) < 3.0


@pytest.mark.parametrize("side", [96, 128, 700, 2500])
def test_landmarks_scale_with_the_picture(side: int, mesh: FaceMesh, demo: np.ndarray) -> None:
    base = crop_portrait(demo, 512, mesh)
    scaled = np.asarray(Image.fromarray(base.image).resize((side, side), Image.Resampling.LANCZOS))
    expected = (base.landmarks[:, :2] + 0.5) * side / 512 - 0.5
    found = mesh(scaled)[:, :2]
    assert np.median(np.linalg.norm(found - expected, axis=1)) < 0.012 * side


def test_a_small_face_in_a_large_picture_is_found(mesh: FaceMesh, demo: np.ndarray) -> None:
    base = crop_portrait(demo, 160, mesh)
    scene = np.full((1000, 1500, 3), 120, np.uint8)
    scene[700:860, 1200:1360] = base.image
    found = mesh(scene)[:, :2] - [1200, 700]
    assert np.median(np.linalg.norm(found - base.landmarks[:, :2], axis=1)) < 3.0


@pytest.mark.parametrize(
    "picture",
    [np.zeros((300, 200, 3), np.uint8), np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8),
     np.asarray(Image.linear_gradient("L").convert("RGB")), np.zeros((1, 1, 3), np.uint8)],
    ids=["black", "noise", "gradient", "one-pixel"])
def test_no_face_is_an_input_error(picture: np.ndarray, mesh: FaceMesh) -> None:
    with pytest.raises(InputError, match="no face found") as e:
        mesh(picture)
    assert e.value.field == "image" and e.value.remedy


def test_two_faces_name_how_many_and_the_remedy(mesh: FaceMesh, pair: np.ndarray) -> None:
    rule = r"image: 2 faces \(0 at \(\d+, \d+\), 1 at .*choose face 0 to 1, numbered row by row from the left, or .*--face all"
    with pytest.raises(InputError, match=rule):
        mesh(pair)


def test_faces_are_counted_from_the_left(mesh: FaceMesh, demo: np.ndarray, pair: np.ndarray) -> None:
    middle = demo.shape[1]
    assert mesh(pair, 0)[:, 0].mean() < middle < mesh(pair, 1)[:, 0].mean()
    with pytest.raises(InputError, match="face: 2: the picture has 2 faces"):
        mesh(pair, 2)


def test_a_video_is_followed_as_each_frame_alone(mesh: FaceMesh, demo: np.ndarray) -> None:
    """A face that drifts, jumps and comes back after black frames, at 128 pixels."""
    base = crop_portrait(demo, 96, mesh).image
    frames = np.full((40, 128, 128, 3), 60, np.uint8)
    shift = np.concatenate([np.arange(20) // 2, np.full(20, 30)])  # drifts by 9, then jumps by 20 pixels
    for frame, x in zip(frames, shift, strict=True):
        frame[16:112, x : x + 96] = base
    frames[28:31] = 0
    found = mesh.landmarks_batch(frames)
    assert np.isnan(found[28:31]).all()
    seen = [*range(28), *range(31, 40)]
    assert not np.isnan(found[seen]).any()
    relative = found[seen, :, :2] - np.stack([shift, np.zeros(40)], 1)[seen][:, None]
    assert np.linalg.norm(relative - mesh(frames[0])[:, :2], axis=2).mean(1).max() < 1.5


def test_a_hint_spares_the_search(mesh: FaceMesh, demo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    portrait = crop_portrait(demo, 128, mesh)
    frames = np.repeat(portrait.image[None], 10, 0)
    plain = mesh.landmarks_batch(frames)
    monkeypatch.setattr(mesh, "detect", lambda *a, **k: pytest.fail("searched although the hint says where the face is"))
    hinted = mesh.landmarks_batch(frames, portrait.landmarks)
    assert np.abs(hinted - plain)[..., :2].max() < 2.0


def test_video_without_a_face_is_nan(mesh: FaceMesh) -> None:
    assert np.isnan(mesh.landmarks_batch(np.zeros((3, 64, 64, 3), np.uint8))).all()


def test_squares_sample_what_they_cover() -> None:
    """A ramp is sampled exactly: upright, turned, shrunk (averaged) and beyond the edge (black)."""
    y, x = np.mgrid[0:200, 0:240]
    picture = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)[None]
    squares = Squares(centre=np.array([[120.0, 100.0]]), side=np.array([64.0]), angle=np.array([0.3]))
    for size in (32, 64, 100):
        crop = sample_squares(picture, squares, size)[0].numpy()
        grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(1, -1, 2).astype(float)
        expected = squares.to_picture(grid, size)[0].reshape(size, size, 2).transpose(2, 0, 1)
        assert np.abs(crop[:2] - expected).max() < 0.51
    outside = Squares(centre=np.array([[-200.0, 0.0]]), side=np.array([64.0]), angle=np.array([0.0]))
    assert float(sample_squares(picture, outside, 16).max()) == 0.0


def test_wrong_kind_of_array_is_refused(mesh: FaceMesh) -> None:
    with pytest.raises(ValueError, match="uint8"):
        mesh.faces(torch.zeros(8, 8, 3).numpy())
