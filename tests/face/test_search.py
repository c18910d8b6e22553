"""Many faces, small ones, turned ones; order; none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import Face
from tm_core.face.portrait import prepare_portrait
from tm_core.face.search import FaceFinder, middle, reading_order
from tm_core.face.topology import CHIN, FOREHEAD


@pytest.fixture(scope="module")
def finder(mesh: FaceMesh) -> FaceFinder:
    return FaceFinder(mesh=mesh)


@pytest.fixture(scope="module")
def head(mesh: FaceMesh, demo: np.ndarray) -> tuple[Image.Image, float]:
    """The bundled face in a square, and its longer side over the square's."""
    portrait = prepare_portrait(demo, 256, mesh)
    return Image.fromarray(portrait.image), float(np.ptp(portrait.landmarks[:, :2], axis=0).max()) / 256


def scene(head: tuple[Image.Image, float], size: tuple[int, int], at: list[tuple[int, int, float, int]]) -> np.ndarray:
    """Heads at (x, y of the middle, longer side of the face in pixels, degrees) on grey."""
    canvas = Image.new("RGB", size, (110, 120, 130))
    for x, y, extent, degrees in at:
        side = round(extent / head[1])
        canvas.paste(head[0].rotate(degrees).resize((side, side), Image.Resampling.LANCZOS), (x - side // 2, y - side // 2))
    return np.asarray(canvas)


def near(face: Face, x: float, y: float, extent: float) -> bool:
    return float(np.hypot(middle(face)[0] - x, middle(face)[1] - y)) < 0.35 * extent and 0.6 < face.extent / extent < 1.6


def test_small_faces_of_a_large_picture_are_found_in_reading_order(finder: FaceFinder, head: tuple[Image.Image, float]) -> None:
    at = [(120, 130, 32.0, 0), (700, 110, 40.0, 0), (90, 500, 34.0, 0), (420, 520, 90.0, 0), (760, 490, 36.0, 0)]
    found = finder(scene(head, (900, 640), at))
    assert len(found) == 5
    assert all(near(face, *place[:3]) for face, place in zip(found, at, strict=True))


@pytest.mark.parametrize("degrees", [40, 90, 150, 180, 270])
def test_turned_heads_are_found_the_right_way_up(degrees: int, finder: FaceFinder, head: tuple[Image.Image, float]) -> None:
    (face,) = finder(scene(head, (320, 240), [(160, 120, 60.0, degrees)]))
    down = face.landmarks[CHIN, :2] - face.landmarks[FOREHEAD, :2]
    expected = np.array([np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    assert float(down @ expected) > 0.9 * float(np.linalg.norm(down))


def test_a_portrait_gives_the_face_that_the_mesh_finds(finder: FaceFinder, mesh: FaceMesh, demo: np.ndarray) -> None:
    (ours,) = finder(demo)
    assert np.median(np.linalg.norm(ours.landmarks[:, :2] - mesh(demo)[:, :2], axis=1)) < 2.0


def test_the_same_picture_the_same_faces(finder: FaceFinder, pair: np.ndarray) -> None:
    a, b = finder(pair), finder(pair)
    assert len(a) == 2 and all(np.array_equal(x.landmarks, y.landmarks) for x, y in zip(a, b, strict=True))


def test_smallest_and_most_are_kept(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    picture = scene(head, (500, 200), [(100, 100, 80.0, 0), (260, 100, 30.0, 0), (400, 100, 60.0, 0)])
    assert [round(f.extent) > 50 for f in FaceFinder(mesh=mesh, smallest=50)(picture)] == [True, True]
    assert len(FaceFinder(mesh=mesh, smallest=24)(picture)) == 3
    assert len(FaceFinder(mesh=mesh, smallest=24, most=2)(picture)) == 2


@pytest.mark.parametrize(("options", "field"), [({"smallest": 4}, "smallest"), ({"most": 0}, "most")])
def test_limits_name_the_remedy(mesh: FaceMesh, options: dict[str, int], field: str) -> None:
    with pytest.raises(InputError) as e:
        FaceFinder(mesh=mesh, **options)
    assert e.value.field == field and e.value.remedy


@pytest.mark.parametrize("shape", [(1, 1), (40, 900), (333, 217)], ids=str)
def test_nothing_in_noise_of_any_shape(finder: FaceFinder, shape: tuple[int, int]) -> None:
    assert finder(np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)) == []


def test_faces_at_the_picture_s_edge_and_across_tiles(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    """1400 pixels are two tiles at the finest scale; one face lies on their border."""
    at = [(40, 60, 40.0, 0), (592, 60, 36.0, 0), (1360, 60, 40.0, 0)]
    found = FaceFinder(mesh=mesh, turns=(0,))(scene(head, (1400, 120), at))
    assert len(found) == 3 and all(near(f, *p[:3]) for f, p in zip(found, at, strict=True))


def square_face(x: float, y: float, extent: float) -> Face:
    """Only a box: three landmarks that span it."""
    half = extent / 2
    return Face(landmarks=np.array([[x - half, y - half, 0], [x + half, y + half, 0], [x, y, 0]], np.float32), score=1.0)


def test_reading_order_knows_rows() -> None:
    tall, child, back_left, back_right = square_face(50, 60, 40), square_face(120, 85, 36), square_face(80, 5, 30), square_face(160, 8, 30)
    assert reading_order([child, back_right, tall, back_left]) == [back_left, back_right, tall, child]
    assert reading_order([]) == []
