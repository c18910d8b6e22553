"""Speaking and silence: a table for the reducer, and real speech with real pauses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tm_core.audio.silence import Activity, activity, react, speaking_latents
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


def test_digital_silence_never_speaks() -> None:
    assert not speaking_latents(np.zeros(32000, np.float32), 14, TIMELINE).any()
    assert not speaking_latents(np.zeros(0, np.float32), 3, TIMELINE).any()
