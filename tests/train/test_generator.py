"""The training data's teacher: lips that part and close as asked, a frame that is otherwise the portrait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media import open_image
from tm_core.train import landmarks as lm
from tm_core.train.dataset import TEXTURE, mouth_shapes, normalised
from tm_core.train.generator import draw
from tm_core.train.people import PackedFaces, new_person
from tm_core.train.still_heads import Heads, fit_head, similarity, thin_plate
from tm_core.train.visemes import PHONES, SHAPES, blinks, head_pose, mouth_weights, phone_labels


@pytest.fixture(scope="module")
def faces() -> PackedFaces:
    picture = open_image(Path(__file__).parents[2] / "tm_core" / "assets" / "portraits" / "demo.jpg")
    portrait = crop_portrait(picture, TEXTURE, FaceMesh())
    return PackedFaces(images=torch.from_numpy(portrait.image.copy()).permute(2, 0, 1)[None].float() / 255,
                 points=torch.from_numpy(normalised(portrait.landmarks, TEXTURE))[None], shapes=torch.from_numpy(mouth_shapes()))


@pytest.fixture(scope="module")
def head(faces: PackedFaces) -> Heads:
    return fit_head(faces.images[0], faces.points[0], faces.shapes)


def pose(**weights: float) -> torch.Tensor:
    row = torch.zeros(1, 13)
    for name, value in weights.items():
        row[0, [*SHAPES, "blink", "yaw", "pitch", "roll", "x", "y"].index(name)] = value
    return row


def lip_gap(frame: torch.Tensor) -> float:
    rgb = (frame.permute(1, 2, 0) * 255).byte().numpy()
    points = FaceMesh()(np.ascontiguousarray(rgb))
    return float(np.linalg.norm(points[13, :2] - points[14, :2]) / np.linalg.norm(points[10, :2] - points[152, :2]))


@torch.no_grad()
def test_smoothing_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter1d as theirs

    from tm_core.train.visemes import gaussian_filter1d as ours

    curve = np.random.default_rng(0).standard_normal((60, 3))
    for sigma in (0.7, 4.4, 17.5):
        assert np.allclose(ours(curve, sigma, axis=0), theirs(curve, sigma, axis=0), atol=1e-9)


def test_lips_part_and_close(head: Heads) -> None:
    gaps = {name: lip_gap(draw(head, pose(**{name: 1.0}), 128).frames[0]) for name in SHAPES}
    rest = lip_gap(draw(head, pose(), 128).frames[0])
    assert gaps["AA"] > rest + 0.04 and gaps["AA"] > gaps["EE"]
    assert gaps["MBP"] < rest + 0.01


@torch.no_grad()
def test_rest_is_the_portrait_and_speech_moves_the_mouth_only(head: Heads) -> None:
    rest, open_ = (draw(head, p, 128) for p in (pose(), pose(AA=1.0)))
    still = torch.nn.functional.interpolate(head.texture, 128, mode="bilinear", antialias=True)
    assert (rest.frames - still).abs().mean() < 0.02
    changed = (open_.frames - rest.frames).abs().mean((0, 1))
    y = int((head.points[0, list(lm.UPPER), 1].mean() + 1) * 64)
    assert changed[: y // 2].mean() < 0.3 * changed[y - 8 : y + 16].mean()
    assert open_.mouth.sum() > rest.mouth.sum() + 20


@torch.no_grad()
def test_the_told_warp_is_the_drawn_one(head: Heads) -> None:
    drawn = draw(head, pose(OO=0.8, yaw=0.04), 128)
    again = torch.nn.functional.grid_sample(head.texture, drawn.source, align_corners=False, padding_mode="reflection")
    assert ((again - drawn.frames).abs() * (drawn.mouth == 0)).max() < 1e-4


@torch.no_grad()
def test_a_batch_equals_one_by_one(head: Heads) -> None:
    poses = torch.cat([pose(AA=0.5), pose(blink=1.0), pose(pitch=0.03)])
    batch = draw(head[torch.zeros(3, dtype=torch.long)], poses, 64).frames
    assert torch.allclose(batch, torch.cat([draw(head, p[None], 64).frames for p in poses]), atol=1e-5)


def test_people_differ_by_seed_alone(faces: PackedFaces) -> None:
    a, b, c = (new_person(faces, torch.Generator().manual_seed(s)).texture for s in (1, 1, 2))
    assert torch.equal(a, b) and (a - c).abs().mean() > 0.01


def test_interpolation_goes_through_its_points() -> None:
    points, values = torch.rand(40, 2) * 2 - 1, torch.rand(40, 3)
    assert torch.allclose(thin_plate(points, values, points, smooth=1e-9), values, atol=1e-2)


def test_similarity_undoes_a_turn() -> None:
    points, angle = torch.rand(10, 2), torch.tensor(0.3)
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    assert torch.allclose(similarity(points, points, points @ turn * 1.7 + 0.2), points @ turn * 1.7 + 0.2, atol=1e-5)


def test_weights_follow_phones_and_rest_in_silence() -> None:
    sound = np.zeros(32000, np.float32)
    sound[8000:24000] = 0.1 * np.sign(np.sin(np.arange(16000)))
    track = mouth_weights([("AA", 0.5, 0.9), ("M", 0.9, 1.1), ("AA", 1.1, 1.5)], sound, 50, 25)
    assert track[:10].max() < 0.05 and track[40:].max() < 0.05
    assert track[17, 0] > 0.6 and track[24, SHAPES.index("MBP")] > 0.8 and track[24, 0] < 0.2


def test_labels_name_the_phone_of_each_frame() -> None:
    labels = phone_labels([("AA", 0.2, 0.4), ("??", 0.4, 0.6)], 25, 25)
    assert [PHONES[i] for i in labels[[0, 5, 9, 12]]] == ["SIL", "AA", "AA", "SIL"]


def test_life_starts_at_the_portrait() -> None:
    rng = np.random.default_rng(0)
    assert np.abs(head_pose(100, 25, rng, 1.0)[0]).max() == 0
    closed = blinks(1000, 25, rng)
    assert closed.max() == 1 and 5 < (np.diff((closed > 0.9).astype(int)) == 1).sum() < 25
