"""The parts of a live session that need no model: pacing, waiting speech, turns."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.live.pacing import LATEST_S, Pacer
from tm_core.live.speech_queue import SpeechQueue
from tm_core.live.turn_detector import TurnDetector
from tm_core.media.audio_io import read_audio

FPS = Fraction(25)


def queue() -> SpeechQueue:
    return SpeechQueue(rate=48000, model_rate=16000, fps=FPS)


def test_a_pacer_keeps_the_rate_and_catches_up_little() -> None:
    pacer, now = Pacer(FPS), 100.0
    for _ in range(250):
        now += pacer.wait_s(now)
        now += 0.011  # the work of a step
    assert abs(now - 100.0 - 249 * 0.04) < 0.02
    now += 0.2  # late: the next steps follow at once
    assert [pacer.wait_s(now) for _ in range(4)] == [0.0] * 4
    now += 2 * LATEST_S  # much later: the clock begins anew
    waits = []
    for _ in range(4):
        waits.append(pacer.wait_s(now))
        now += waits[-1]
    assert waits == pytest.approx([0, 0.04, 0.04, 0.04])


def test_a_pacer_can_run_ahead_and_fall_back() -> None:
    pacer, now, waits = Pacer(FPS), 0.0, []
    for lead in (0, 0.08, 0.08, 0.08, 0.08, 0, 0):
        waits.append(pacer.wait_s(now, lead))
        now += waits[-1]
    assert waits == pytest.approx([0, 0, 0, 0.04, 0.04, 0.12, 0.04])


@pytest.mark.parametrize(("rate", "piece"), [(16000, 1), (24000, 37), (44100, 1024), (48000, 1920), (8000, 10**6)])
def test_speech_leaves_as_it_came_whatever_its_pieces(rate: int, piece: int) -> None:
    time = np.arange(int(0.7 * rate)) / rate
    sound = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    sound = sound[: 700 * piece] if piece == 1 else sound
    waiting, parts = queue(), []
    for begin in range(0, len(sound), piece):
        waiting.push(sound[begin : begin + piece], rate)
        while waiting.frames >= 4:
            parts.append(waiting.take(4))
    waiting.end()
    while waiting.begun:
        parts.append(waiting.take(1))
    heard, model = (np.concatenate([getattr(p, k) for p in parts]) for k in ("heard", "model"))
    length = round(len(sound) / rate * 48000)
    assert 0 <= len(heard) - length <= 1920 + 2 and len(heard) == 3 * len(model)
    true = 0.5 * np.sin(2 * np.pi * 440 * np.arange(length) / 48000)
    inner = slice(200, max(201, length - 200))
    assert np.abs(heard[:length][inner] - true[inner]).max() < 0.02
    assert np.abs(heard[length + 2 :]).max(initial=0) == 0
    assert [p.position_s for p in parts] == pytest.approx(np.cumsum([0, *(len(p.heard) / 48000 for p in parts[:-1])]))


def test_what_cannot_be_spoken_is_refused_and_nothing_is_lost() -> None:
    waiting = queue()
    waiting.push(np.zeros(16000, np.float32), 16000)
    for samples, rate, field in ((np.zeros(10), 22050, "rate"), (np.zeros(10), 100, "rate"), (np.zeros((2, 10)), 16000, "samples"),
                                 (np.full(10, np.nan), 16000, "samples"), (np.zeros(16000 * 700), 16000, "samples")):
        with pytest.raises(InputError) as refused:
            waiting.push(samples.astype(np.float32), rate)
        assert refused.value.field == field
    waiting.end()
    assert waiting.frames == 25
    with pytest.raises(InputError, match="whole number of samples"):
        SpeechQueue(rate=44100, model_rate=16000, fps=Fraction(24))


def test_speech_after_an_end_that_still_waits_goes_on() -> None:
    waiting = queue()
    waiting.push(np.zeros(1600, np.float32), 16000)
    waiting.end()
    waiting.push(np.zeros(2400, np.float32), 24000)
    waiting.end()
    assert waiting.frames == 5


@pytest.mark.parametrize("room_db", [-90.0, -55.0, -42.0])
def test_turns_begin_and_end_with_recorded_speech(assets: Path, room_db: float) -> None:
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[: 16000 * 3]
    rng = np.random.default_rng(0)
    sound = np.concatenate([np.zeros(32000), speech, np.zeros(32000)])
    sound = (sound + 10 ** (room_db / 20) * rng.standard_normal(len(sound))).astype(np.float32)
    turns, found = TurnDetector(), []
    for begin in range(0, len(sound), 320):
        found += [(turn, begin / 16000) for turn in turns.push(sound[begin : begin + 320])]
    assert [t for t, _ in found] in (["began", "ended"], ["began", "ended"] * 2), found
    assert 1.9 < found[0][1] < 2.6
    assert 5.0 < found[-1][1] < 6.1
