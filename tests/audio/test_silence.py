"""Speaking and silence: a table for the reducer, and real speech with real pauses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tm_core.audio.silence import (
    EMPTY_DB,
    FLOOR_DB,
    STEP_S,
    Activity,
    Gate,
    SpeakingStream,
    activity,
    loudness_db,
    noise_db,
    react,
    speaking_latents,
)
from tm_core.errors import InputError
from tm_core.media import read_audio
from tm_core.timeline import Timeline

TIMELINE = Timeline(fps=Fraction(25))
SPEECH = Path(__file__).parents[2] / "tm_core" / "assets" / "speech" / "librivox_sense_and_sensibility_0870.wav"
RULE = {"on_db": -30.0, "off_db": -36.0, "hold_s": 0.3}


@pytest.mark.parametrize(
    ("state", "level", "speaking", "quiet"),
    [
        (Activity(), -40.0, False, 0.1),
        (Activity(), -33.0, False, 0.1),
        (Activity(), -29.0, True, 0.0),
        (Activity(speaking=True), -33.0, True, 0.0),
        (Activity(speaking=True), -40.0, True, 0.1),
        (Activity(speaking=True, quiet_s=0.15), -40.0, True, 0.25),
        (Activity(speaking=True, quiet_s=0.25), -40.0, False, 0.35),
        (Activity(speaking=True, quiet_s=0.25), -30.0, True, 0.0),
    ],
    ids=["quiet", "between levels stays quiet", "loud starts", "between levels goes on", "a gap begins", "a gap holds", "a gap ends it",
         "speech resumes"],
)
def test_reducer(state: Activity, level: float, speaking: bool, quiet: float) -> None:
    after = react(state, level, 0.1, **RULE)
    assert after.speaking is speaking
    assert after.quiet_s == pytest.approx(quiet)


def test_a_hold_that_ends_in_silence_is_taken_back() -> None:
    levels = np.array([-60] * 10 + [-10] * 50 + [-60] * 20 + [-10] * 50 + [-60] * 80, np.float32)
    flags = activity(levels, **RULE)
    assert flags[10:130].all() and not flags[:10].any() and not flags[131:].any()


@pytest.mark.parametrize("gain", [1.0, 0.05], ids=["as recorded", "26 dB quieter"])
def test_real_speech_with_a_pause(gain: float) -> None:
    speech = read_audio(SPEECH).samples * gain
    sound = np.concatenate([speech, np.zeros(2 * 16000, np.float32), speech])
    flags = speaking_latents(sound, TIMELINE.num_latents(TIMELINE.num_frames(len(sound) / 16000)), TIMELINE)
    first, pause = int(len(speech) / 16000 * 25 / 4), int((len(speech) / 16000 + 1) * 25 / 4)
    assert flags[2 : first - 2].mean() > 0.85
    assert not flags[pause - 3 : pause + 4].any()


@pytest.mark.parametrize("under_db", [40, 30, 20])
def test_steady_noise_is_no_speech(under_db: int) -> None:
    """White noise under a recorded voice: the pause is still found, and the voice too."""
    speech = read_audio(SPEECH).samples
    sound = np.concatenate([speech, np.zeros(2 * 16000, np.float32), speech])
    noise = np.random.default_rng(0).standard_normal(len(sound)) * np.sqrt((speech**2).mean()) * 10 ** (-under_db / 20)
    count = TIMELINE.num_latents(TIMELINE.num_frames(len(sound) / 16000))
    clean, flags = (speaking_latents(np.asarray(s, np.float32), count, TIMELINE) for s in (sound, sound + noise))
    pause = int((len(speech) / 16000 + 1) * 25 / 4)
    assert not flags[pause - 3 : pause + 4].any() and (flags == clean).mean() > 0.9


def test_a_long_vowel_is_no_noise() -> None:
    """As steady as noise, but nothing is louder: the levels stay where they are."""
    tone = np.sin(np.arange(32000) * 0.05).astype(np.float32)
    assert noise_db(loudness_db(tone * 0.1, 16000), 0.0) == pytest.approx(-23.0, abs=0.2)
    assert speaking_latents(tone * 0.1, 14, TIMELINE)[:12].all()
    assert noise_db(loudness_db(tone[:1600], 16000), 0.0) == EMPTY_DB


def test_digital_silence_never_speaks() -> None:
    assert not speaking_latents(np.zeros(32000, np.float32), 14, TIMELINE).any()
    assert not speaking_latents(np.zeros(0, np.float32), 3, TIMELINE).any()


def wobble(seed: int, count: int, jump: int = 800) -> np.ndarray:
    """Noise whose level jumps by up to 80 dB every `jump` samples."""
    rng = np.random.default_rng(seed)
    level = np.repeat(10 ** rng.uniform(-4, 0, count // jump + 1), jump)[:count]
    return (0.3 * rng.standard_normal(count) * level).astype(np.float32)


def plain_levels(samples: np.ndarray) -> np.ndarray:
    """The level of every 10 ms of a whole 16 kHz sound, without a stream."""
    power = np.pad(samples, (0, -len(samples) % 160)).reshape(-1, 160)
    mean = np.pad((power**2).mean(1), 1, mode="edge")
    smooth = (mean[:-2] + mean[1:-1] + mean[2:]) / 3
    return np.asarray(10 * np.log10(np.maximum(smooth, 10 ** (EMPTY_DB / 10))), np.float32)


def plain_activity(levels: np.ndarray, **rule: float) -> np.ndarray:
    """Hysteresis and hold over known levels, holds taken back afterwards."""
    state, flags = Activity(), np.zeros(len(levels), bool)
    for i, level in enumerate(levels):
        before, state = state, react(state, float(level), STEP_S, **rule)
        flags[i] = state.speaking
        if before.speaking and not state.speaking:
            flags[i - round(before.quiet_s / STEP_S) : i] = False
    if state.speaking and state.quiet_s:
        flags[len(flags) - round(state.quiet_s / STEP_S) :] = False
    return flags


@pytest.mark.parametrize("seed", range(6))
def test_the_stream_gives_the_numbers_of_the_whole_sound(seed: int) -> None:
    sound = wobble(seed, 30_000 + 77 * seed)
    levels = loudness_db(sound, 16000)
    assert np.array_equal(levels, plain_levels(sound))
    loud = float(np.percentile(levels, 95))
    rule = {"on_db": max(loud - 28.0, FLOOR_DB), "off_db": max(loud - 34.0, FLOOR_DB), "hold_s": 0.3}
    active = plain_activity(plain_levels(sound), **rule)
    assert np.array_equal(activity(levels, **rule), active)
    count = TIMELINE.num_latents(TIMELINE.num_frames(len(sound) / 16000))
    expected = []
    for i in range(count):
        frames = TIMELINE.frames_of_latent(i)
        start, stop = int((frames.start / TIMELINE.fps - 0.08) / STEP_S), int((frames.stop / TIMELINE.fps + 0.08) / STEP_S) + 1
        expected.append(bool(active[max(0, start) : stop].any()))
    assert speaking_latents(sound, count, TIMELINE).tolist() == expected


@pytest.mark.parametrize("shortest_s", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("hold_s", [0.0, 0.05, 0.3])
def test_blocks_give_the_flags_of_the_file(hold_s: float, shortest_s: float) -> None:
    rng, sound = np.random.default_rng(3), wobble(9, 161_234, 4000)
    rule = {"on_db": -30.0, "off_db": -36.0, "hold_s": hold_s, "shortest_s": shortest_s}
    stream, parts, at = SpeakingStream(TIMELINE, **rule), [], 0
    late = 0.0
    while at < len(sound):
        block = sound[at : at + int(rng.integers(1, 4000))]
        parts.append(stream.push(block))
        at += len(block)
        known = sum(len(p) for p in parts)
        late = max(late, at / 16000 - TIMELINE.frames_of_latent(known).stop / 25)
    count = TIMELINE.num_latents(TIMELINE.num_frames(len(sound) / 16000)) + 2
    flags = np.concatenate([*parts, stream.finish(count)])
    assert np.array_equal(flags, speaking_latents(sound, count, TIMELINE, levels="absolute", **rule))
    assert 0 < flags.mean() < 1 and sum(len(p) for p in parts) > count / 2
    assert late <= stream.delay_s


def test_a_live_gate_knows_at_once_what_it_takes_back_later() -> None:
    gate = Gate(on_db=-30.0, off_db=-36.0, hold_s=0.095)
    assert gate.push(np.full(5, -10.0, np.float32)).all() and gate.speaking
    assert len(gate.push(np.full(9, -60.0, np.float32))) == 0 and gate.speaking  # a hold: nobody knows yet
    assert gate.push(np.full(1, -60.0, np.float32)).tolist() == [False] * 10 and not gate.speaking


def test_what_is_short_was_no_speech() -> None:
    levels = np.array([-60] * 20 + [-10] * 8 + [-60] * 60 + [-10] * 30 + [-60] * 60, np.float32)
    assert activity(levels, **RULE)[20:28].all()
    flags = activity(levels, **RULE, shortest_s=0.2)
    assert not flags[:88].any() and flags[88:118].all() and not flags[118:].any()


def test_absolute_levels_let_a_faint_track_be_silent() -> None:
    faint = read_audio(SPEECH).samples * 0.02  # another's voice in this microphone
    count = TIMELINE.num_latents(TIMELINE.num_frames(len(faint) / 16000))
    assert speaking_latents(faint, count, TIMELINE).mean() > 0.5
    assert not speaking_latents(faint, count, TIMELINE, levels="absolute", on_db=-40.0, off_db=-46.0).any()


@pytest.mark.parametrize(
    ("rule", "field"),
    [({"on_db": -40.0, "off_db": -30.0}, "silence_db"), ({"hold_s": -1.0}, "shortest_pause_s"), ({"levels": "loud"}, "levels")],
    ids=["levels the wrong way round", "negative time", "unknown kind"])
def test_rules_that_cannot_be(rule: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        speaking_latents(np.zeros(100, np.float32), 1, TIMELINE, **rule)  # type: ignore[arg-type]
