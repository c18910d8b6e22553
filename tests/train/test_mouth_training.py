"""The mouth's truth agrees with the frames the autoencoder sees; a short training learns, goes on, and says what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tm_core.config import ModelConfig
from tm_core.errors import InputError
from tm_core.train.dataset import Inputs
from tm_core.train.generator import draw, draw_mouth, skull_motion
from tm_core.train.mouth_clips import GRID, load_mouth_faces, mouth_clips, speech_poses
from tm_core.train.mouth_training import (
    MouthTraining,
    evaluate_mouth,
    field_loss,
    held_mouths,
    make_batch,
    train_mouth,
    untrained_head,
)
from tm_core.train.people import PackedFaces
from tm_core.train.still_heads import Heads, fit_head, pixel_grid
from tm_core.vae.mouth_drawing import MouthFields, PortraitShare
from tm_core.vae.mouth_geometry import at_rest, mouth_geometry, to_box
from tm_core.vae.tiny import TinyVAE


@pytest.fixture(scope="module")
def faces(inputs: Inputs) -> PackedFaces:
    """As load_mouth_faces gives them: bytes."""
    return PackedFaces(images=(inputs.faces.images * 255).byte(), points=inputs.faces.points, shapes=inputs.faces.shapes)


@pytest.fixture(scope="module")
def head(inputs: Inputs) -> Heads:
    return fit_head(inputs.faces.images[0], inputs.faces.points[0], inputs.faces.shapes)


def poses() -> Tensor:
    weights = torch.zeros(4, 13)
    weights[1, 0], weights[2, 5], weights[3, 7:12] = 1, 1, torch.tensor([0.05, 0.03, 0.1, 0.01, 0.01])
    return weights


def test_the_mouth_at_all_pixels_is_the_whole_frame(head: Heads) -> None:
    side = 96
    whole = draw(head[torch.zeros(4, dtype=torch.long)], poses(), side)
    mouth = draw_mouth(head, poses(), side, pixel_grid(side)[None].expand(4, -1, -1, -1), plain=True)
    torch.testing.assert_close(mouth.mouth, whole.mouth, atol=0.02, rtol=0)
    assert (mouth.frames - whole.frames).abs().mean() < 0.01  # cubic against linear
    own = torch.minimum((mouth.upper - whole.source).abs().amax(-1), (mouth.lower - whole.source).abs().amax(-1))
    assert own.max() < 1e-3, "every pixel comes from one lip's side"


def test_the_skull_moves_with_the_head_alone(head: Heads) -> None:
    drawn = draw_mouth(head, poses(), 96, pixel_grid(8)[None].expand(4, -1, -1, -1))
    geometry = mouth_geometry(head.points)
    found = skull_motion(geometry, head.points[..., :2], drawn.skull)
    assert found[:3].abs().max() < 1e-5, "speech leaves the skull where it is"
    assert found[3].abs().min() > 1e-3
    ends = to_box(drawn.skull[3:, [78, 308]], geometry.box)[:, None]
    home = to_box(head.points[:, [78, 308], :2], geometry.box)[:, None]
    torch.testing.assert_close(at_rest(ends, geometry, found[3:]), home, atol=0.02, rtol=0)


def test_a_persons_clips_are_the_same_again(vae: TinyVAE, faces: PackedFaces, inputs: Inputs, small: ModelConfig, tmp_path: Path) -> None:
    first = mouth_clips(vae, faces, inputs.speech, small, 5, tmp_path)
    kept = mouth_clips(vae, faces, inputs.speech, small, 5, tmp_path)
    again = mouth_clips(vae, faces, inputs.speech, small, 5)
    for a, b, c in zip(first, kept, again, strict=True):
        assert torch.equal(a.lips, b.lips) and torch.equal(a.frames, b.frames) and torch.equal(a.sight.features, b.sight.features)
        assert torch.equal(a.lips, c.lips) and torch.equal(a.frames, c.frames)
    assert not torch.equal(first[0].lips, first[1].lips)


def test_the_truth_has_no_loss(vae: TinyVAE, faces: PackedFaces, inputs: Inputs, small: ModelConfig) -> None:
    clips = mouth_clips(vae, faces, inputs.speech, small, 6)
    batch = make_batch(clips, 4, torch.Generator().manual_seed(0))
    empty = torch.zeros(0)
    share = PortraitShare(still=empty, flows=empty, curves=empty, lips=batch.true_geometry.lips, code=empty, skull_code=empty, tint=empty)
    assert field_loss(batch.truth, share, batch)[0] == 0
    worse = batch.truth._replace(lips=batch.truth.lips + 0.01)
    assert field_loss(worse, share, batch)[0] > 0.5


def test_it_learns_and_goes_on(vae: TinyVAE, faces: PackedFaces, inputs: Inputs, small: ModelConfig, tmp_path: Path) -> None:
    points: list[dict[str, Any]] = []
    training = MouthTraining(clips=3, frames=3, pictures=1, people=2, first_people=2, steps_a_person=100, report_every=10)
    for _ in range(2):
        train_mouth(
            small, vae, faces, inputs.speech, tmp_path / "m.safetensors", minutes=9, most_steps=30, training=training, report=points.append)
    assert [p["step"] for p in points] == [10, 20, 30, 40, 50, 60]
    assert points[-1]["fields"] < 0.9 * points[0]["fields"]
    assert points[-1]["texture"] < points[0]["texture"]


def test_held_out_people_are_measured(vae: TinyVAE, faces: PackedFaces, inputs: Inputs, small: ModelConfig) -> None:
    held = held_mouths(vae, faces, ["demo"], inputs.speech, small, frames=9)
    figures = evaluate_mouth(untrained_head(vae).eval(), held)
    assert {"inside", "ring", "lip_px", "sharpness", "jitter_px"} <= set(figures)
    assert figures["lip_px"] > 1, "lips that stay at rest are wrong"


def test_speech_poses_follow_their_seed(inputs: Inputs, small: ModelConfig) -> None:
    one, same, other = (speech_poses(inputs.speech, small, seed, 17, 0.5) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert (speech_poses(inputs.speech, small, 1, 17, 0.5, strength=0.0)[:, :6] == 0).all()


def test_missing_stills_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="talking-machines train prepare"):
        load_mouth_faces(tmp_path / "none.safetensors", "train")


def test_fields_are_of_the_grid(vae: TinyVAE, faces: PackedFaces, inputs: Inputs, small: ModelConfig) -> None:
    truth = make_batch(mouth_clips(vae, faces, inputs.speech, small, 7), 2, torch.Generator().manual_seed(0)).truth
    assert isinstance(truth, MouthFields) and truth.flows.shape == (6, 4, *GRID) and truth.lips.shape == (6, 2, GRID[1])
