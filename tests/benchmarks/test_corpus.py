"""Held-out pairs for `bench sync`: only held-out data, phones that move with their sound, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks._corpus import PAUSE_S, RATE, held_faces, held_sounds
from tm_core.errors import InputError

UTTERANCE_S = 2.0


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two voices of six utterances, every second one held out; utterance u is the constant u."""
    speech, faces = tmp_path / "speech", tmp_path / "faces"
    speech.mkdir()
    faces.mkdir()
    n = round(UTTERANCE_S * RATE)
    for voice in ("a", "b"):
        samples = np.concatenate([np.full(n, 1000 * (u + 1), np.int16) for u in range(6)])
        np.savez(speech / f"{voice}.npz", samples=samples, starts=np.arange(6) * n)
        entries = [
            {"phones": [["AA", 0.5, 1.0]], "real": voice == "a", "split": "held" if u % 2 else "train"} for u in range(6)]
        (speech / f"{voice}.json").write_text(json.dumps(entries))
    index = [{"file": f"{i}.png", "identity": f"p{i // 2}", "split": "held" if i < 4 else "train"} for i in range(6)]
    (faces / "faces.json").write_text(json.dumps(index))
    return tmp_path


def test_voices_take_turns_and_only_held_out_speech_is_used(corpus: Path) -> None:
    sounds = held_sounds(corpus, 2, 4.0)
    assert [s.name for s in sounds] == ["a-0", "b-0"]
    assert [s.real for s in sounds] == [True, False]
    for sound in sounds:
        assert len(sound.samples) == 4 * RATE
        levels = set(np.round(sound.samples * 32768).astype(int).tolist())
        assert levels == {0, 2000, 4000}  # utterances 1 and 3, and the pause between them


def test_phones_move_with_their_utterance(corpus: Path) -> None:
    phones = held_sounds(corpus, 1, 4.0)[0].phones
    assert [p.start for p in phones] == pytest.approx([0.5, 0.5 + UTTERANCE_S + PAUSE_S])


def test_one_picture_of_each_held_out_identity(corpus: Path) -> None:
    assert [f.name for f in held_faces(corpus)] == ["p0", "p1"]


@pytest.mark.parametrize("missing", ["speech", "faces"])
def test_a_missing_corpus_names_the_command(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match=r"tm_core\.train\.corpus"):
        held_sounds(tmp_path, 1, 4.0) if missing == "speech" else held_faces(tmp_path)


def test_too_few_stretches_are_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="seconds"):
        held_sounds(corpus, 10, 4.0)
