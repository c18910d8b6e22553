"""`bench looks --part life`: blinks, sway and stills of known videos, and bars that can be missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import _living_faces
from benchmarks._truth import look_at
from tm_core.face.eyes import close_lids, turn_eyes
from tm_core.face.life import CLOSURES
from tm_core.media.image_io import open_image

FPS, SIDE = 25.0, 200


@pytest.fixture(scope="module")
def portrait(assets: Path) -> np.ndarray:
    return np.asarray(Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def landmarks(portrait: np.ndarray) -> np.ndarray:
    return look_at(portrait[None]).landmarks[0]


@pytest.mark.slow
def test_blinks_are_counted_and_glances_and_winks_are_not(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    video = np.repeat(portrait[None], 100, 0)
    for begin, eyes in ((10, (0, 1)), (40, (0, 1)), (70, (0,))):  # the last is a wink
        for k, closure in enumerate(CLOSURES):
            video[begin + k] = close_lids(portrait, landmarks, closure, list(eyes))
    video[80:95] = turn_eyes(portrait, landmarks, (0.05, 0.02), [0, 1])
    record = _living_faces.watch([video[:33], video[33:]], FPS)
    assert len(record.landmarks) == 100 and _living_faces.blinks(record.eyes, FPS) == 2
    assert _living_faces.blinks(_living_faces.watch([np.repeat(portrait[None], 30, 0)], FPS).eyes, FPS) == 0


def moved(picture: np.ndarray, x: float) -> np.ndarray:
    size = picture.shape[1::-1]
    return np.asarray(Image.fromarray(picture).transform(size, Image.Transform.AFFINE, (1, 0, -x, 0, 1, 0), Image.Resampling.BICUBIC))


@pytest.mark.slow
def test_a_still_is_told_from_a_face_that_sways_and_the_nose_is_followed(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    wide = float(np.linalg.norm(landmarks[234, :2] - landmarks[454, :2]))
    swaying = np.stack([moved(portrait, 0.01 * wide * np.sin(2 * np.pi * t / 25)) for t in range(50)])
    record = _living_faces.watch([swaying], FPS)
    assert _living_faces.longest_still_s(record, FPS) <= 0.2
    spread, path = _living_faces.nose_moves(record.landmarks)
    assert spread == pytest.approx(0.01 / np.sqrt(2), rel=0.2) and path == pytest.approx(0.02, rel=0.2)
    frozen = _living_faces.watch([swaying[:10], np.repeat(swaying[10:11], 30, 0)], FPS)
    assert _living_faces.longest_still_s(frozen, FPS) >= 29 / FPS
    assert _living_faces.longest_still_s(frozen.part(0, 0.8, FPS), FPS) <= 10 / FPS, "a part counts from its own beginning"
    noisy = np.clip(np.repeat(portrait[None], 30, 0) + np.random.default_rng(0).integers(-1, 2, (30, SIDE, SIDE, 1)), 0, 255)
    assert _living_faces.longest_still_s(_living_faces.watch([noisy.astype(np.uint8)], FPS), FPS) > 1, "noise is no life"


def test_lips_are_compared_between_the_halves(landmarks: np.ndarray) -> None:
    marks = np.repeat(landmarks[None], 200, 0)
    marks[:100, 14, 1] += 5 + 5 * np.sin(np.arange(100))
    marks[100:, 14, 1] += 0.5 * np.sin(np.arange(100))
    record = _living_faces.LifeRecord(landmarks=marks, eyes=np.zeros((200, 2, *_living_faces.PATCH)), alike=np.arange(200))
    signs = _living_faces.LifeSigns.of("x", record, FPS)
    assert signs.lips == pytest.approx(0.1, rel=0.1) and signs.blinks_a_minute == 0 and signs.still_s[1] > 1


GOOD = _living_faces.LifeSigns(
    name="a", blinks_a_minute=17, nose=(0.01, 0.005), path=(0.03, 0.02), still_s=(0.1, 0.2), lips=0.05, seen=1.0)
WORSE: dict[str, Callable[[], _living_faces.LifeSigns]] = {
    "blinks, fewest of a face": lambda: replace(GOOD, blinks_a_minute=5),
    "blinks, most of a face": lambda: replace(GOOD, blinks_a_minute=31),
    "nose's tip from its mean place, speaking, least of a face": lambda: replace(GOOD, nose=(0.004, 0.003)),
    "nose's tip from its mean place, speaking, furthest of a face": lambda: replace(GOOD, nose=(0.03, 0.02)),
    "the same, listening over speaking, least of a face": lambda: replace(GOOD, nose=(0.01, 0.003)),
    "longest stretch without change, listening": lambda: replace(GOOD, still_s=(0.1, 1.0)),
    "lip motion listening over speaking, most of a face": lambda: replace(GOOD, lips=0.2)}


@pytest.mark.parametrize("what", WORSE)
def test_one_face_is_enough_to_miss_a_bar(what: str) -> None:
    assert all(r["ok"] is not False for r in _living_faces.signs_rows([GOOD, GOOD]))
    assert [r["what"] for r in _living_faces.signs_rows([GOOD, WORSE[what]()]) if r["ok"] is False] == [what]
