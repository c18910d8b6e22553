"""`bench silence`: what its measures say of known pictures and known conversations, and one small run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import silence
from benchmarks._corpus import RATE, Sound
from benchmarks._truth import Seen
from tm_core import talk
from tm_core.audio.turns import parse_rttm, parse_timeline
from tm_core.config import tiny
from tm_core.media.audio_io import Waveform
from tm_core.metrics.phones import Phone


def seen(landmarks: np.ndarray, frames: np.ndarray | None = None) -> Seen:
    return Seen(frames=np.zeros((len(landmarks), 64, 64, 3), np.uint8) if frames is None else frames, landmarks=landmarks)


def still_face(count: int = 50) -> np.ndarray:
    marks = np.zeros((count, 468, 3), np.float32)
    for (upper, lower), (outer, inner), x in zip(silence.LIDS, silence.CORNERS, (16.0, 44.0), strict=True):
        marks[:, [upper, lower], 0], marks[:, outer, 0], marks[:, inner, 0] = x, x - 6, x + 6
        marks[:, upper, 1], marks[:, lower, 1] = 20.0, 25.0
    return marks


def test_a_frozen_picture_has_nothing_and_a_living_one_has() -> None:
    frozen = seen(still_face())
    assert silence.change(frozen) == silence.wander(frozen) == silence.blinks(frozen) == 0
    living = still_face()
    living[:, :, 0] += np.sin(np.arange(50) / 5)[:, None]
    noise = np.random.default_rng(0).integers(0, 9, (50, 64, 64, 3)).astype(np.uint8)
    noise[10:14, 20:26] = noise[30:33, 20:26] = 60  # both eyes shut twice
    noise[40:44, 20:26, :30] = 60  # a wink is no blink
    moving = seen(living, noise)
    assert silence.blinks(moving) == 2 and silence.wander(moving) > 0.3 and silence.change(moving) > 1
    noise[:, :26] = 7  # what moves is below the eyes
    assert silence.change(seen(living, noise)) == 0


def spoken(name: str) -> Sound:
    tone = (0.3 * np.sin(2 * np.pi * 170 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    tone[: RATE // 2] = 0
    return Sound(name=name, real=False, samples=tone, phones=[Phone("AA", 0.5, 1.0), Phone("B", 1.1, 2.0)])


def test_a_conversation_of_known_times() -> None:
    dialogue = silence.converse(("a", "b"), ([spoken("a-0"), spoken("a-1")], [spoken("b-0"), spoken("b-1")]))
    assert dialogue.truth[0] == (pytest.approx((0.5, 2.0)), pytest.approx((5.5, 7.0)))
    assert dialogue.truth[1] == (pytest.approx((3.0, 4.5)), pytest.approx((8.0, 9.5)))
    assert parse_rttm(dialogue.rttm).spans("b") == (pytest.approx((3.0, 4.5)), pytest.approx((8.0, 9.5)))
    assert not (dialogue.tracks[0] * dialogue.tracks[1]).any()
    voice = talk.encode_audio(Waveform(samples=dialogue.mixed), tiny())
    right = silence.agreement(talk.select_speaking(voice, turns=parse_timeline("0.5-2 a, 5.5-7 a")), *dialogue.truth)
    assert right.right > 0.95 and right.wrong == 0
    swapped = silence.agreement(talk.select_speaking(voice, turns=parse_timeline("3-4.5 a, 8-9.5 a")), *dialogue.truth)
    assert swapped.right < 0.5 and swapped.wrong > 0.9


@pytest.mark.slow
def test_a_small_run(held_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "KINDS", ("zero",))
    results = {r["what"]: r for r in silence.run(seconds=4.5)}
    assert results["zero silence: the same, worst pair"]["ok"] is True
    assert results["mixed track, flags by RTTM: frames right, mean"]["ok"] is True
