"""Many faces, small ones, turned ones; order; none where there is none."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from tm_core.errors import InputError
from tm_core.face.found import faces_to_choose_from, find_faces
from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import Face
from tm_core.face.portrait_crop import crop_portrait
from tm_core.face.search import FaceFinder, middle, reading_order
from tm_core.face.topology import CHIN, FOREHEAD


@pytest.fixture(scope="module")
def finder(mesh: FaceMesh) -> FaceFinder:
    return FaceFinder(mesh=mesh)


@pytest.fixture(scope="module")
def head(mesh: FaceMesh, demo: np.ndarray) -> tuple[Image.Image, float]:
    """The bundled face in a square, and its longer side over the square's."""
    portrait = crop_portrait(demo, 256, mesh)
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


CROWDS = {
    "three": ((1280, 720), [(214, 372, 126.0, 0), (633, 333, 129.0, 0), (1062, 354, 120.0, 0)]),
    "nine": ((900, 640), [(120 + 290 * c + 20 * r, 110 + 200 * r, 90.0 - 12 * c, 0) for r in range(3) for c in range(3)]),
    "eighteen": ((1000, 560), [(85 + 165 * c, 100 + 180 * r, 62.0, 0) for r in range(3) for c in range(6)]),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_of_a_group_nobody_is_taken_unasked_and_everybody_is_listed(crowd: str, mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    size, at = CROWDS[crowd]
    with pytest.raises(InputError) as e:
        mesh.face(scene(head, size, at))
    listed = [(int(x), int(y)) for x, y in re.findall(r"at \((\d+), (\d+)\)", str(e.value.value))]
    assert len(listed) == len(at) and all(np.hypot(x - a[0], y - a[1]) < 0.35 * a[2] for (x, y), a in zip(listed, at, strict=True))
    assert f"choose face 0 to {len(at) - 1}" in e.value.remedy and "--face all" in e.value.remedy and "Find Faces" in e.value.remedy


def test_numbers_are_the_same_whoever_asks(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    """Two rows, the upper one further right: as one reads, not from the left."""
    picture = scene(head, (640, 420), [(470, 100, 90.0, 0), (140, 310, 100.0, 0), (380, 320, 80.0, 0)])
    faces = find_faces(picture).faces
    assert [round(middle(face)[0] / 100) for face in faces] == [5, 1, 4]
    assert np.array_equal(mesh.face(picture, 1).landmarks, faces[1].landmarks)
    chosen = faces_to_choose_from(picture, 2)
    assert np.array_equal(chosen.face(picture, 2).landmarks, faces[2].landmarks)
    with pytest.raises(InputError, match=r"face: 3: the picture has 3 faces \(0 at "):
        chosen.face(picture, 3)


def test_people_in_the_background_need_no_choice_but_keep_their_numbers(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    picture = scene(head, (700, 480), [(60, 60, 40.0, 0), (400, 260, 200.0, 0), (640, 70, 36.0, 0)])
    faces = find_faces(picture).faces
    assert len(faces) == 3 and faces[2].extent > 150
    assert np.array_equal(mesh.face(picture).landmarks, faces[2].landmarks)
    assert np.array_equal(find_faces(picture).face(picture, None).landmarks, faces[2].landmarks)


def test_another_face_that_a_glance_is_too_coarse_for_is_asked_about(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    """A third of the face's size, 13 pixels of the 128 that a glance has."""
    picture = scene(head, (800, 800), [(300, 400, 240.0, 0), (700, 200, 84.0, 0)])
    with pytest.raises(InputError, match="image: 2 faces"):
        mesh.face(picture)


@pytest.mark.slow
def test_faces_of_60_pixels_in_24_megapixels(mesh: FaceMesh, head: tuple[Image.Image, float]) -> None:
    at = [(200, 300, 60.0, 0), (5700, 420, 64.0, 0), (3100, 3700, 60.0, 0)]
    finder = FaceFinder(mesh=mesh, turns=(0,))
    picture = scene(head, (6000, 4000), at)
    found = finder(picture)
    assert len(found) == 3 and all(near(face, *place[:3]) for face, place in zip(found, at, strict=True))
    assert finder.smallest_in(picture) < 50 and finder.smallest_in(picture[:1000, :1000]) == 32


def square_face(x: float, y: float, extent: float) -> Face:
    """Only a box: three landmarks that span it."""
    half = extent / 2
    return Face(landmarks=np.array([[x - half, y - half, 0], [x + half, y + half, 0], [x, y, 0]], np.float32), score=1.0)


def test_reading_order_knows_rows() -> None:
    tall, child, back_left, back_right = square_face(50, 60, 40), square_face(120, 85, 36), square_face(80, 5, 30), square_face(160, 8, 30)
    assert reading_order([child, back_right, tall, back_left]) == [back_left, back_right, tall, child]
    assert reading_order([]) == []
