"""Windows of silence in place of sound, for our own windows and for those of the open families."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from tm_core.audio.features import log_mel
from tm_core.audio.silenced_windows import SilencedWindows, flags_at, silence_windows
from tm_core.audio.speech_windows import FrameWindows, GroupedWindows, PaddedWindows, TokenWindows
from tm_core.audio.windows import MelFeatures
from tm_core.config import AudioConfig
from tm_core.timeline import Timeline

TIMELINE = Timeline(fps=Fraction(25))


def test_our_own_models_hear_digital_silence() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    cfg = AudioConfig()
    sound, nothing = (MelFeatures(rows=log_mel(s, cfg), timeline=TIMELINE, cfg=cfg) for s in (noise, np.zeros_like(noise)))
    hushed = SilencedWindows(sound=sound, flags=np.array([True] * 4 + [False] * 3 + [True]))
    heard, plain, silent = (x.windows(range(3, 9)) for x in (hushed, sound, nothing))
    assert torch.equal(heard[[0, 4]], plain[[0, 4]])
    assert torch.equal(heard[1:4], silent[1:4]) and torch.equal(heard[5], silent[5])
    assert not torch.equal(plain[1:4], silent[1:4])


def test_families_hear_zero_features() -> None:
    features, speaking = torch.randn(40, 12, 8), torch.tensor([False, True, False])
    first_later = FrameWindows().windows(features, range(3))
    heard = silence_windows(first_later, speaking)
    assert isinstance(heard, GroupedWindows) and not heard.first.any()
    assert torch.equal(heard.later[0], first_later.later[0]) and not heard.later[1].any()
    later = FrameWindows().windows(features, range(3, 6))
    silenced = silence_windows(later, speaking).later
    assert torch.equal(silenced[1], later.later[1]) and not silenced[[0, 2]].any()
    padded = TokenWindows(tokens_per_frame=50 / 23).windows(torch.randn(100, 8), range(3, 6))
    quiet = silence_windows(padded, speaking)
    assert isinstance(quiet, PaddedWindows) and torch.equal(quiet.lengths, padded.lengths)
    assert torch.equal(quiet.tokens[1], padded.tokens[1]) and not quiet.tokens[[0, 2]].any()


def test_silent_outside_the_sound() -> None:
    assert flags_at(np.array([True, True]), range(-1, 4)).tolist() == [False, True, True, False, False]
