"""Recognisers: what they hear, cutting of long sounds, the message when one is missing."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.metrics.phones import PIECE_S, RATE, Phone, pieces, recognise_phones


def test_a_real_voice_is_heard(phones: list[Phone], voice: np.ndarray) -> None:
    names = [p.name for p in phones if p.name != "SIL"]
    assert 50 < len(names) < 120  # seven seconds of reading
    assert all(a.end <= b.start + 0.02 and a.start < a.end for a, b in pairwise(phones))
    assert phones[-1].end <= len(voice) / RATE + 0.05
    spoken = [p for p in phones if p.name not in ("SIL", "+SPN+", "+NSN+")]
    assert max(p.end for p in spoken) < len(voice) / RATE - 0.5  # nothing in the silence at the end


def test_long_sounds_are_cut_in_their_pauses() -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(70 * RATE).astype(np.float32) * 0.1
    for at in (15, 31, 47, 60):
        samples[at * RATE : at * RATE + RATE // 2] = 0
    parts = pieces(samples)
    assert parts[0][0] == 0 and parts[-1][1] == len(samples)
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    assert all(end - start <= PIECE_S * RATE for start, end in parts)
    assert all(not samples[end - 100 : end + 100].any() for _, end in parts[:-1])


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(100, np.float32), np.zeros(RATE, np.float32)], ids=len)
def test_no_sound_has_no_speech(samples: np.ndarray) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx (extra score) is what is tested")
    assert [p for p in recognise_phones(samples) if p.name not in ("SIL", "+NSN+", "+SPN+")] == []


@pytest.mark.parametrize("name", ["pocketsphinx", "hama"])
def test_a_missing_recogniser_names_the_command(name: str, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a package that is not there
    with pytest.raises(InputError, match=rf"{name}: is not installed; install it with: pip install {name}"):
        recognise_phones(voice, name)  # type: ignore[arg-type]
