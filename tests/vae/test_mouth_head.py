"""The mouth head: any size, nothing painted where lips are shut or outside them, parts that make the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media import open_image
from tm_core.vae.mouth_drawing import MouthFields, MouthState, mouth_pixels
from tm_core.vae.mouth_geometry import GRID, TALL, box_grid, from_box, meeting, one_beyond, to_box
from tm_core.vae.mouth_head import MouthHead, mouth_sight
from tm_core.vae.tiny import Motion

ASSETS = Path(__file__).parents[2] / "tm_core" / "assets"
SIDE = 300


@pytest.fixture(scope="module")
def portrait() -> tuple[Tensor, Tensor]:
    """A picture (3, SIDE, SIDE) and its landmarks."""
    crop = crop_portrait(open_image(ASSETS / "portraits" / "demo.jpg"), SIDE, FaceMesh())
    return torch.tensor(crop.image).permute(2, 0, 1).float() / 255, torch.tensor(crop.landmarks)


def at_size(portrait: tuple[Tensor, Tensor], side: int) -> tuple[Tensor, Tensor]:
    picture, landmarks = portrait
    small = F.interpolate(picture[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    return small, (landmarks + 0.5) * side / SIDE - 0.5


@pytest.fixture
def head() -> MouthHead:
    torch.manual_seed(0)
    net = MouthHead().eval()
    net.init_output()
    for layer in (net.leave, net.say):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return net.requires_grad_(False)


def motion(frames: int, seed: int = 0) -> Motion:
    torch.manual_seed(seed)
    return Motion(
        flow=0.01 * torch.randn(frames, 2, 64, 64), paint=torch.randn(frames, 16, 64, 64), features=torch.randn(frames, 24, 64, 64),
        latents=torch.randn((frames + 3) // 4, 32, 16, 16).repeat_interleave(4, 0)[-frames:])


def at_rest(state: MouthState, frames: int = 1) -> MouthFields:
    return MouthFields(
        lips=state.share.lips.expand(frames, -1, -1), flows=torch.zeros(frames, 4, *GRID), skull=torch.zeros(frames, 3),
        light=torch.ones(frames, 1))


@pytest.mark.parametrize("side", [64, 111, 512, 1001])
def test_any_size_of_picture(head: MouthHead, portrait: tuple[Tensor, Tensor], side: int) -> None:
    state = head.prepare(*at_size(portrait, side))
    x0, y0, x1, y1 = state.where
    assert 0 <= x0 < x1 <= side and 0 <= y0 < y1 <= side
    pixels, weight = head(motion(9), state)
    assert pixels.shape == (9, 3, y1 - y0, x1 - x0) and weight.shape == (9, 1, y1 - y0, x1 - x0)
    assert torch.isfinite(pixels).all() and 0 <= pixels.min() and pixels.max() <= 1
    edge = torch.cat([weight[0, 0, 0], weight[0, 0, -1], weight[0, 0, :, 0], weight[0, 0, :, -1]])
    assert edge.max() < 0.2 and weight.max() == 1


def test_the_rectangle_stays_in_the_picture(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    picture, landmarks = portrait
    state = head.prepare(picture, landmarks + torch.tensor([0.42 * SIDE, 0.25 * SIDE, 0]))
    x0, y0, x1, y1 = state.where
    assert 0 <= x0 < x1 <= SIDE and 0 <= y0 < y1 <= SIDE
    assert torch.isfinite(head(motion(4), state)[0]).all()


@pytest.mark.parametrize("side", [111, 512])
def test_a_mouth_at_rest_is_the_picture(head: MouthHead, portrait: tuple[Tensor, Tensor], side: int) -> None:
    picture, landmarks = at_size(portrait, side)
    state = head.prepare(picture, landmarks)
    x0, y0, x1, y1 = state.where
    assert (mouth_pixels(at_rest(state), state)[0] - picture[:, y0:y1, x0:x1]).abs().max() < 1e-3


def test_the_box_turns_with_the_mouth(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    picture, landmarks = portrait
    turned = torch.stack([SIDE - 1 - landmarks[:, 1], landmarks[:, 0], landmarks[:, 2]], 1)
    upright, lying = head.prepare(picture, landmarks), head.prepare(picture.transpose(1, 2).flip(2), turned)
    torch.testing.assert_close(upright.geometry.lips, lying.geometry.lips, atol=1e-4, rtol=0)
    x0, y0, x1, y1 = upright.where
    assert lying.where == (SIDE - y1, x0, SIDE - y0, x1)


def test_boxes_there_and_back() -> None:
    box = torch.tensor([[[0.3, 0.1], [-0.1, 0.3], [0.2, 0.4]]])
    points = box_grid(5, 7, box)[None]
    torch.testing.assert_close(to_box(from_box(points, box), box), points)


def painted(head: MouthHead, state: MouthState, lips: Tensor) -> Tensor:
    """Where a mouth of one loud colour shows on a grey picture (h, w), for contours (1, 2, columns)."""
    loud = (torch.ones_like(state.textures[0]), torch.ones_like(state.textures[1]))
    grey = replace(state, picture=torch.full_like(state.picture, 0.5), textures=loud, parted=False)
    fields = at_rest(state)._replace(lips=lips, light=torch.full((1, 1), 9.0))
    return (mouth_pixels(fields, grey)[0] - 0.5).abs().amax(0)


def test_paint_stays_between_the_lips(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    state = head.prepare(*portrait)
    columns = torch.linspace(-1, 1, GRID[1])
    arch = torch.exp(-((columns / 0.25) ** 2))
    lips = torch.stack([-0.1 * arch, 0.2 * arch])[None]
    found = painted(head, state, lips)
    distances = torch.stack([box_grid(GRID[0], 1, lips)[:, :, 1] - lips[0, 0], lips[0, 1] - box_grid(GRID[0], 1, lips)[:, :, 1]])
    look = state.points / torch.tensor([1, TALL])
    apart = F.grid_sample(distances[None], look, align_corners=False, padding_mode="border").amin(1)[0] * state.reach
    assert found[apart > 1.5].min() > 0.3, "the open mouth is painted"
    assert found[apart < -2].max() < 1e-5, "two pixels beyond the contour nothing is"


@pytest.mark.parametrize("gap", [0.0, -0.05], ids=["touching", "pressed"])
def test_nothing_is_painted_where_lips_are_shut(head: MouthHead, portrait: tuple[Tensor, Tensor], gap: float) -> None:
    state = head.prepare(*portrait)
    lips = state.share.lips.mean(1, keepdim=True).repeat(1, 2, 1) + torch.tensor([-gap / 2, gap / 2])[:, None]
    assert painted(head, state, lips).max() < 1e-5


def test_lips_do_not_part_beyond_their_corners(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    state = head.prepare(*portrait)
    torch.nn.init.normal_(head.leave.weight, std=3.0)
    fields = head.fields(mouth_sight(motion(8), state.geometry), state.share, state.geometry)
    columns = box_grid(1, GRID[1], fields.lips)[0, :, 0]
    beyond = (columns < state.geometry.corners[0, 0] - 0.1) | (columns > state.geometry.corners[0, 1] + 0.1)
    gap = fields.lips[:, 1] - fields.lips[:, 0]
    assert gap[:, beyond].max() < 1e-6 < gap[:, ~beyond].max()


def test_a_parted_portrait_can_close(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    """What it shows between its lips is gone when they meet, however wrong the network's flow is."""
    picture, landmarks = portrait
    state = head.prepare(picture, landmarks)
    middle = state.share.lips.mean(1, keepdim=True)
    arch = 0.1 * torch.exp(-((torch.linspace(-1, 1, GRID[1]) / 0.3) ** 4))
    parted, shut = middle + torch.stack([-arch, arch]), middle.repeat(1, 2, 1)
    x0, y0, x1, y1 = state.where
    marked = torch.full_like(picture, 0.5)
    marked[:, y0:y1, x0:x1][:, painted(head, state, parted) > 0.49] = torch.tensor([1.0, 0, 0])[:, None]
    state = head.prepare(marked, landmarks)
    state = replace(state, share=state.share._replace(lips=parted), parted=True)

    def red(lips: Tensor, flows: Tensor) -> float:
        met = meeting(flows, lips, parted, state.geometry.corners)
        out = mouth_pixels(at_rest(state)._replace(lips=lips, flows=met), state)[0]
        return float((out[0] - out[1]).clamp(min=0).sum())

    opened = red(parted, torch.zeros(1, 4, *GRID))
    assert opened > 100
    for wrong, most in ((0.0, 0.05), (0.05, 0.15), (-0.05, 0.15)):
        down = torch.tensor([0, wrong, 0, wrong]).view(1, 4, 1, 1).expand(1, 4, *GRID)
        assert red(shut, down) < most * opened


def test_chunks_equal_the_whole(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    state, whole = head.prepare(*portrait), motion(21)
    pieces = [head(Motion(*(t[a:b] for t in whole)), state)[0] for a, b in ((0, 9), (9, 13), (13, 21))]
    torch.testing.assert_close(torch.cat(pieces), head(whole, state)[0], atol=1e-5, rtol=0)


def test_half_precision_draws_the_same_places(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    full = head.prepare(*portrait)
    seen = motion(4)
    expected = head.fields(mouth_sight(seen, full.geometry), full.share, full.geometry)
    head.to(torch.bfloat16)
    state = head.prepare(*portrait)
    made = head.fields(mouth_sight(seen, state.geometry), state.share, state.geometry)
    assert made.lips.dtype == torch.float32 and (made.lips - expected.lips).abs().max() < 0.05
    assert state.where == full.where


def test_beyond_the_corners_skin_is_one_and_does_not_tear() -> None:
    torch.manual_seed(0)
    flows, corners = torch.randn(2, 4, *GRID), torch.tensor([[-0.5, 0.4]]).expand(2, -1)
    x = box_grid(1, GRID[1], flows)[0, :, 0]
    lips = torch.zeros(2, 2, GRID[1])
    lips[1, 1, x > 0.4] = 0.1  # in the second frame lips part beyond the right corner
    one = one_beyond(flows, lips, corners)
    inside, beyond = (x > -0.5) & (x < 0.4), (x < -0.61) | (x > 0.51)
    torch.testing.assert_close(one[..., inside], flows[..., inside])
    upper, lower = one[0, :2], one[0, 2:]
    torch.testing.assert_close(upper[..., beyond], lower[..., beyond])
    torch.testing.assert_close(upper[..., beyond], (flows[0, :2] + flows[0, 2:])[..., beyond] / 2)
    torch.testing.assert_close(one[1][..., x > 0.4], flows[1][..., x > 0.4], msg="where lips part each keeps its own")


def test_no_hair_of_paint_beyond_where_corners_may_go(head: MouthHead, portrait: tuple[Tensor, Tensor]) -> None:
    state = replace(head.prepare(*portrait), parted=False)
    rest = at_rest(state)
    lips = rest.lips.clone()
    lips[0, 0, 2], lips[0, 1, 2] = lips[0, 0, 2] - 0.02, lips[0, 1, 2] + 0.02  # far beyond the right corner
    lips[0, 1, GRID[1] // 2] += 0.1
    colours = ([torch.full_like(t, c) for t in state.textures] for c in (0.0, 1.0))
    black, white = (mouth_pixels(rest._replace(lips=lips), replace(state, textures=(teeth, jaw))) for teeth, jaw in colours)
    painted = (black != white).any(1)[0]
    x = state.points[0, ..., 0]
    left = float(state.geometry.corners[0, 0])
    assert painted[x > left].any() and not painted[x < left - 0.15].any()
