"""The compiled pass against torch's operations: the same pixels, and those that do not move are left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core import talk
from tm_core.media.image_io import open_image
from tm_core.talk.framing import framed, view_of
from tm_core.vae import warping
from tm_core.vae.mouth_raster import MouthRaster
from tm_core.vae.rendering import FaceRenderer, square_of
from tm_core.vae.warping import WarpPlan
from tm_core.weights.loading import load_model

PORTRAIT = Path(__file__).parents[2] / "tm_core" / "assets" / "portraits" / "demo.jpg"
RECT, BOX, GRID = (37, 20, 301, 280), (30.3, 11.7, 310.1, 291.5), 64


def moved(plan: WarpPlan, picture: np.ndarray, flow: torch.Tensor) -> np.ndarray:
    frames = np.broadcast_to(picture, (len(flow), *picture.shape)).copy()
    warp = plan.open(frames, flow)
    x0, y0, x1, y1 = plan.rect
    warp.warp(plan.texture(picture[y0 - 10 : y1 + 10, x0 - 10 : x1 + 10], (x0 - 10, y0 - 10)), plan.rect)
    warp.warp(plan.texture(picture[90:160, 90:200].copy(), (90, 90)), (100, 100, 180, 150), 1)
    warp.lay(torch.full((len(flow), 3, 9, 12), 200.0), torch.full((1, 1, 9, 12), 0.25), (120, 200))
    warp.finish()
    return frames


@pytest.fixture
def flow() -> torch.Tensor:
    coarse = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.02
    wide = torch.nn.functional.interpolate(coarse, size=(GRID, GRID), mode="bicubic", align_corners=True)
    wide[..., :20] = 0
    return wide


def test_both_ways_draw_the_same_pixels(flow: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = open_image(PORTRAIT)
    plan = WarpPlan.of(RECT, BOX, GRID, torch.device("cpu"))
    assert plan.writes_bytes, "librosa brings numba along"
    fast = moved(plan, picture, flow)
    monkeypatch.setattr(warping, "compiled", lambda: None)
    assert not plan.writes_bytes
    slow = moved(plan, picture, flow)
    off = np.abs(fast.astype(int) - slow.astype(int))
    assert off.mean() < 0.1 and np.quantile(off, 0.999) <= 2  # positions are rounded to a 512th of a pixel, colours between pixels to bytes
    assert np.abs(fast.astype(int) - picture).max() > 40  # something moved


def test_pixels_that_do_not_move_are_the_pictures(flow: torch.Tensor) -> None:
    picture = open_image(PORTRAIT)
    plan = WarpPlan.of(RECT, BOX, GRID, torch.device("cpu"))
    frames = moved(plan, picture, flow)
    assert (frames[0, :, :100] == picture[:, :100]).all()  # no flow in the grid's first columns
    outside = np.ones(picture.shape[:2], bool)
    outside[RECT[1] : RECT[3], RECT[0] : RECT[2]] = False
    assert (frames[:, outside] == picture[outside]).all()
    resting = np.broadcast_to(picture, (3, *picture.shape)).copy()
    plan.open(resting, flow * 0).warp(plan.texture(255 - picture, (0, 0)), RECT)  # nothing moves, so nothing is read
    assert (resting == picture).all()


@pytest.mark.parametrize("parted", [False, True])
def test_both_ways_draw_the_same_mouth(parted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model()
    portrait = talk.prepare_portrait(open_image(PORTRAIT), model.config)
    view = framed(view_of(portrait), "face", 401)
    with torch.inference_mode():
        latents = model.vae.encode_image(portrait.image)[:, None].expand(-1, 3, -1, -1)[None].clone()
        latents[:, :, 1:] += torch.randn(latents[:, :, 1:].shape, generator=torch.Generator().manual_seed(3))
        frames = []
        for _ in range(2):
            renderer = FaceRenderer(model.vae, view, portrait.image)
            if parted:  # as if the portrait showed something between its lips
                mouth = renderer._mouth
                assert mouth is not None
                share = mouth.state.share._replace(lips=mouth.state.share.lips + torch.tensor([[[-0.05], [0.05]]]))
                state = replace(mouth.state, share=share, parted=True)
                raster = mouth.raster and MouthRaster.of(
                    state, renderer._texture, mouth.corner, mouth.share[0, 0].numpy(), mouth.cut, square_of(view.box))
                renderer._mouth = replace(mouth, state=state, raster=raster)
            frames.append(renderer(latents, renderer.open())[0].astype(int))
            monkeypatch.setattr(warping, "compiled", lambda: None)
    off = np.abs(frames[0] - frames[1])
    assert 0 < off.mean() < 0.2 and np.quantile(off, 0.999) <= 6  # the picture is read by four points between pixels, not by sixteen pixels
    assert np.abs(frames[0] - frames[0][:1]).max() > 40
