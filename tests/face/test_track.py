"""Numbers that faces keep."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.face.search import FaceFinder, middle
from tm_core.face.track import FaceTracker

SIDE = 90


@pytest.fixture(scope="module")
def heads(mesh: FaceMesh, demo: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """Two that differ: the bundled face, and it with other colours."""
    image = crop_portrait(demo, SIDE, mesh).image
    return Image.fromarray(image), Image.fromarray(np.ascontiguousarray(255 - (255 - image[..., ::-1]) * 0.8).astype(np.uint8))


def frame(*at: tuple[Image.Image, int]) -> np.ndarray:
    """Heads with their left edge at x; later ones in front."""
    canvas = Image.new("RGB", (360, 110), (90, 110, 90))
    for head, x in at:
        canvas.paste(head, (x, 10))
    return np.asarray(canvas)


def tracker(mesh: FaceMesh, **options: int) -> FaceTracker:
    return FaceTracker(FaceFinder(mesh=mesh, turns=(0,)), **options)


def numbers(follow: FaceTracker, rgb: np.ndarray) -> list[int]:
    return [t.number for t in follow.push(rgb)]


def test_a_face_keeps_its_number_while_another_comes_and_goes(mesh: FaceMesh, heads: tuple[Image.Image, Image.Image]) -> None:
    a, b = heads
    follow = tracker(mesh, search_every=4)
    assert [numbers(follow, frame((a, 200 + t))) for t in range(4)] == [[0]] * 4
    both = [numbers(follow, frame((a, 204 + t), (b, 20))) for t in range(5)]
    assert both[-1] == [1, 0]  # from left to right; the newcomer stands left
    assert [numbers(follow, frame((a, 209 + t))) for t in range(3)] == [[0]] * 3
    assert numbers(follow, frame((a, 212), (b, 22))) == [1, 0]


def test_two_cross_and_keep_their_numbers(mesh: FaceMesh, heads: tuple[Image.Image, Image.Image]) -> None:
    a, b = heads
    follow = tracker(mesh)
    seen = [follow.push(frame((a, 10 + 8 * t), (b, 250 - 8 * t))) for t in range(31)]
    assert {t.number for s in seen for t in s} == {0, 1}
    assert [t.number for t in seen[0]] == [0, 1] and [t.number for t in seen[-1]] == [1, 0]
    assert middle(seen[-1][1].face)[0] > 260


def test_a_face_away_for_longer_than_patience_is_a_new_one(mesh: FaceMesh, heads: tuple[Image.Image, Image.Image]) -> None:
    follow = tracker(mesh, patience=3, search_every=1)
    assert numbers(follow, frame((heads[0], 100))) == [0]
    assert [numbers(follow, frame()) for _ in range(3)] == [[]] * 3
    assert numbers(follow, frame((heads[0], 100))) == [0]
    assert [numbers(follow, frame()) for _ in range(4)] == [[]] * 4
    assert numbers(follow, frame((heads[0], 100))) == [1]
