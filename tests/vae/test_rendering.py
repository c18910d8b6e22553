"""Faces drawn at any size: what does not move stays to the bit, what moves stays sharp and goes where the flow says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tm_core import talk
from tm_core.face.life import FaceLife
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.talk.framing import framed, view_of
from tm_core.vae.rendering import FaceRenderer, FaceView
from tm_core.vae.tiny import Motion, TinyVAE
from tm_core.weights.loading import load_model


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="module")
def portrait(model: TalkingModel, assets: Path) -> talk.Portrait:
    return talk.prepare_portrait(open_image(assets / "portraits" / "second.jpg"), model.config)


@pytest.fixture(scope="module")
def view(portrait: talk.Portrait) -> FaceView:
    return view_of(portrait)


class Moved(TinyVAE):
    """The real autoencoder, whose motion is replaced by one that a test gives."""

    given: Motion

    def motion(self, latents: torch.Tensor, state: object, every: int = 1, *, paint: bool = True) -> tuple[Motion, object]:  # type: ignore[override]
        return self.given, state


def drawn(model: TalkingModel, view: FaceView, portrait: talk.Portrait, flow: torch.Tensor, paint: float = -30.0) -> np.ndarray:
    """Frames (T, H, W, 3) under a flow (T, 2, 64, 64) and paint everywhere or nowhere."""
    vae = Moved(model.vae.cfg).eval()
    vae.given = Motion(
        flow=flow, paint=torch.full((len(flow), 16, 64, 64), paint), features=torch.zeros(len(flow), 24, 64, 64),
        latents=torch.zeros(len(flow), 32, 16, 16))
    with torch.inference_mode():
        return FaceRenderer(vae, view, portrait.image)(torch.zeros(0), None)[0]  # type: ignore[arg-type]


def sharpness(picture: np.ndarray, points: np.ndarray) -> float:
    """Mean absolute Laplacian round landmarks (N, 2)."""
    grey = picture.astype(float).mean(2)
    laplacian = np.abs(4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])
    (x0, y0), (x1, y1) = points.min(0).astype(int), points.max(0).astype(int)
    return float(laplacian[y0:y1, x0:x1].mean())


def test_a_face_at_rest_is_the_picture_to_the_bit(model: TalkingModel, view: FaceView, portrait: talk.Portrait) -> None:
    assert np.array_equal(drawn(model, view, portrait, torch.zeros(2, 2, 64, 64)), np.stack([view.picture] * 2))


@pytest.mark.parametrize("pixels", [0.5, 2.25, 6.0])
def test_the_face_goes_where_the_flow_says_and_nothing_else_does(
    model: TalkingModel, view: FaceView, portrait: talk.Portrait, pixels: float,
) -> None:
    side = view.box[2] - view.box[0]
    flow = torch.zeros(1, 2, 64, 64)
    flow[:, 0] = -2 * pixels / side  # everything comes from the left: it goes to the right
    frame = drawn(model, view, portrait, flow)[0]
    x, y = view.landmarks[:, :2].mean(0).round().astype(int)
    patch = frame[y - 20 : y + 20, x - 20 : x + 20].astype(float)
    size = view.picture.shape[1] * 4, view.picture.shape[0] * 4
    finer = np.asarray(Image.fromarray(view.picture).resize(size, Image.Resampling.BICUBIC))
    errors = {}
    for shift in np.arange(0, 8.25, 0.25):
        place = np.arange(x - 20, x + 20) - shift
        columns = np.clip(((place + 0.5) * 4).round().astype(int), 0, finer.shape[1] - 1)
        rows = ((np.arange(y - 20, y + 20) + 0.5) * 4).astype(int)
        errors[float(shift)] = np.abs(finer[rows][:, columns] - patch).mean()
    assert min(errors, key=errors.__getitem__) == pytest.approx(pixels, abs=0.3)
    moved = (frame != view.picture).any(2)
    box = [int(np.floor(v)) for v in view.box]
    outside = np.ones_like(moved)
    outside[max(0, box[1]) : box[3] + 1, max(0, box[0]) : box[2] + 1] = False
    assert not (moved & outside).any() and moved.any()


def test_moved_pixels_stay_as_sharp_as_the_picture(model: TalkingModel, view: FaceView, portrait: talk.Portrait) -> None:
    """At every fraction of a pixel; the worst is half-way between two."""
    side, eyes = view.box[2] - view.box[0], view.landmarks[[33, 133, 159, 145, 362, 263, 386, 374], :2]
    before = sharpness(view.picture, eyes)
    flow = torch.stack([torch.full((2, 64, 64), 2 * k / 8 / side) for k in range(8)])
    ratios = [sharpness(frame, eyes) / before for frame in drawn(model, view, portrait, flow)]
    assert 0.9 < np.mean(ratios) < 1.15 and min(ratios) > 0.8 and max(ratios) < 1.4, ratios


def test_frames_do_not_depend_on_the_pieces_they_are_made_in(model: TalkingModel, portrait: talk.Portrait) -> None:
    view = framed(view_of(portrait), "face", 160)
    view = replace(view, life=FaceLife(fps=Fraction(25), seed=4))
    latents = torch.randn(1, 16, 6, 16, 16) * 0.5
    said = np.linspace(0, 1, 21)
    with torch.inference_mode():
        renderer = FaceRenderer(model.vae, view, portrait.image)
        whole = renderer(latents, renderer.open(), 0, said)[0]
        first, state = renderer(latents[:, :, :2], renderer.open(), 0, said[:5])
        rest, _ = renderer(latents[:, :, 2:], state, 5, said[5:])
    assert np.abs(whole.astype(int) - np.concatenate([first, rest])).max() <= 1


def test_half_precision_moves_the_face_alike(portrait: talk.Portrait, view: FaceView) -> None:
    latents = torch.randn(1, 16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.3
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        vae = load_model(dtype=dtype).vae
        renderer = FaceRenderer(vae, view, portrait.image.to(dtype))
        with torch.inference_mode():
            made.append(renderer(latents.to(dtype), renderer.open())[0].astype(int))
    assert made[0].shape == made[1].shape and np.abs(made[0] - made[1]).mean() < 1.0
    assert np.abs(made[0] - view.picture).mean() > 2 * np.abs(made[0] - made[1]).mean()


def test_half_of_the_frames_are_the_same_ones_shown_twice(model: TalkingModel, view: FaceView, portrait: talk.Portrait) -> None:
    every = 2
    living = replace(view, life=FaceLife(fps=Fraction(25), seed=1))
    still = model.vae.encode_image(portrait.image)[:, None]
    latents = still[None] + 0.4 * torch.randn(1, len(still), 4, *still.shape[2:], generator=torch.Generator().manual_seed(3))
    shown = {}
    with torch.inference_mode():
        for step in (1, every):
            renderer = FaceRenderer(model.vae, living, portrait.image)
            state = renderer.open()
            first, state = renderer(latents[:, :, :2], state, 0, np.linspace(0, 1, 5), step)
            then, state = renderer(latents[:, :, 2:], state, 5, np.linspace(1, 0, 8), step)
            shown[step] = np.concatenate([first, then])
    assert len(shown[every]) == len(shown[1]) == 13
    made = list(range(0, 5, every)) + list(range(5 + every - 1, 13, every))
    assert np.abs(shown[every][made].astype(int) - shown[1][made]).max() <= 1
    assert all((shown[every][i] == shown[every][min(j for j in made if j >= i)]).all() for i in range(13))
