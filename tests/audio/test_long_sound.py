"""A sound read as it is needed is heard as the whole one is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from tm_core.audio.features import log_mel
from tm_core.audio.long_sound import LongFlags, LongMelFeatures
from tm_core.audio.silence import SpeakingStream, StretchedSpeaking, speaking_latents
from tm_core.audio.windows import MelFeatures
from tm_core.config import AudioConfig
from tm_core.timeline import Timeline

TIMELINE, CFG = Timeline(fps=Fraction(25)), AudioConfig()


@dataclass
class Stored:
    """A sound in memory that counts how often it is begun."""

    samples: np.ndarray
    piece: int = 5000
    begun: int = 0
    sample_rate: int = 16000

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def pieces(self) -> Iterator[np.ndarray]:
        self.begun += 1
        for start in range(0, len(self.samples), self.piece):
            yield self.samples[start : start + self.piece]


def talk(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of noise with pauses, softer and louder from minute to minute."""
    t = np.arange(round(16000 * seconds)) / 16000
    loud = np.where(t % 1.7 < 1.1, 0.2, 1e-4) * (1 + 0.5 * np.sin(t / 40))
    return np.asarray(loud * np.random.default_rng(seed).normal(size=len(t)), np.float32)


@pytest.mark.parametrize("piece", [333, 5000, 70000])
def test_windows_are_those_of_the_whole_bit_for_bit(piece: int) -> None:
    sound = Stored(talk(20.3), piece)
    whole = MelFeatures(rows=log_mel(sound.samples, CFG), timeline=TIMELINE, cfg=CFG)
    long = LongMelFeatures(sound, TIMELINE, CFG)
    for start in range(0, 135, 3):
        assert torch.equal(long.windows(range(start, start + 3)), whole.windows(range(start, start + 3)))
    assert sound.begun == 1


def test_memory_does_not_grow_and_going_back_begins_again() -> None:
    sound = Stored(talk(120))
    whole = MelFeatures(rows=log_mel(sound.samples, CFG), timeline=TIMELINE, cfg=CFG)
    long = LongMelFeatures(sound, TIMELINE, CFG)
    held = [len(long._rows) for i in range(0, 740, 20) if long.windows(range(i, i + 3)) is not None]
    assert max(held) < 3200 < len(whole.rows)
    assert torch.equal(long.windows(range(5, 8)), whole.windows(range(5, 8)))
    assert sound.begun == 2


def test_flags_of_up_to_a_minute_are_those_of_the_whole() -> None:
    for seconds in (3.0, 59.9):
        sound = Stored(talk(seconds))
        count = TIMELINE.num_latents(TIMELINE.num_frames(seconds))
        flags = LongFlags(sound, count, lambda: StretchedSpeaking(TIMELINE))
        assert np.array_equal(np.asarray(flags), speaking_latents(sound.samples, count, TIMELINE))
        assert 0.4 < np.asarray(flags).mean() < 1


def test_flags_of_minutes_agree_with_the_whole_where_loudness_is_alike() -> None:
    sound = Stored(talk(200))
    count = TIMELINE.num_latents(TIMELINE.num_frames(200))
    flags = LongFlags(sound, count, lambda: StretchedSpeaking(TIMELINE))
    assert (np.asarray(flags) == speaking_latents(sound.samples, count, TIMELINE)).mean() > 0.99


def test_a_minute_is_judged_when_it_was_heard() -> None:
    sound = Stored(talk(300))
    flags = LongFlags(sound, 1876, lambda: StretchedSpeaking(TIMELINE))
    _ = flags[3]
    assert len(flags._flags) < 1876 * 61 / 300 + 5


def test_absolute_levels_need_no_minute() -> None:
    sound = Stored(talk(130))
    count, rule = 813, {"on_db": -30.0, "off_db": -36.0}
    flags = LongFlags(sound, count, lambda: SpeakingStream(TIMELINE, **rule))
    assert np.array_equal(np.asarray(flags), speaking_latents(sound.samples, count, TIMELINE, levels="absolute", **rule))


def test_two_threads_ask_at_once() -> None:
    sound = Stored(talk(100))
    long = LongMelFeatures(sound, TIMELINE, CFG)
    whole = MelFeatures(rows=log_mel(sound.samples, CFG), timeline=TIMELINE, cfg=CFG)
    wrong: list[int] = []

    def ask(first: int) -> None:
        wrong.extend(i for i in range(first, 600, 29) if not torch.equal(long.windows(range(i, i + 3)), whole.windows(range(i, i + 3))))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_sound_without_speech_says_so(caplog: pytest.LogCaptureFixture) -> None:
    flags = LongFlags(Stored(np.full(16000 * 70, 1e-5, np.float32)), 438, lambda: StretchedSpeaking(TIMELINE))
    assert not np.asarray(flags).any() and "no speech was found" in caplog.text
