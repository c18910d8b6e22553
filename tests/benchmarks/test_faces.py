"""What the faces bench calls found, false, out of order and a change of number."""

from __future__ import annotations

import numpy as np

from benchmarks import faces
from benchmarks._groups import Group, Placed
from tm_core.face.networks import Face
from tm_core.face.track import TrackedFace


def face(x: float, y: float, extent: float = 40.0) -> Face:
    half = extent / 2
    return Face(landmarks=np.array([[x - half, y - half, 0], [x + half, y + half, 0]], np.float32), score=1.0)


def placed(x: float, y: float, extent: float = 40.0) -> Placed:
    return Placed(centre=(x, y), extent=extent, turn=0.0)


GROUP = Group(name="two", size=64, image=np.zeros((9, 9, 3), np.uint8), faces=(placed(50, 50), placed(150, 50)))


def test_found_missed_false_and_out_of_order() -> None:
    assert faces.count(GROUP, [face(52, 48), face(149, 51)]) == faces.Counted(size=64, there=2, found=2, extra=0, ordered=True)
    assert not faces.count(GROUP, [face(150, 50), face(50, 50)]).ordered
    missed = faces.count(GROUP, [face(50, 50), face(90, 90)])
    assert (missed.found, missed.extra) == (1, 1)
    assert faces.count(GROUP, [face(50, 50), face(50, 50)]).extra == 1
    assert faces.count(GROUP, [face(50, 50, 100.0)]).found == 0


def test_bars_follow_the_size() -> None:
    small = [faces.Counted(size=size, there=10, found=9, extra=0, ordered=True) for size in faces.SIZES]
    ok = [r["ok"] for r in faces._recall(small)]
    assert ok == [size < faces.LARGE for size in faces.SIZES] + [True]


def test_a_swap_counts_for_both_faces() -> None:
    true = [[placed(50, 50), placed(150, 50)]] * 2
    a, b = face(50, 50), face(150, 50)
    kept = [[TrackedFace(number=0, face=a), TrackedFace(number=1, face=b)]] * 2
    swapped = [kept[0], [TrackedFace(number=1, face=a), TrackedFace(number=0, face=b)]]
    assert faces.switches(kept, true) == (0, 0, 2)
    assert faces.switches(swapped, true) == (2, 0, 2)
    assert faces.switches([kept[0], [kept[0][0]]], true) == (0, 1, 2)
