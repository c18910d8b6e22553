"""Who speaks, through the app: both kinds of silence, schedules, names that do not fit, and what a face does then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core import talk
from tm_core.audio.turns import parse_timeline
from tm_core.config import tiny
from tm_core.errors import InputError
from tm_core.media.audio_io import read_audio
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.weights.loading import load_model

SPEECH = Path(__file__).parents[2] / "tm_core" / "assets" / "speech" / "librivox_sense_and_sensibility_0870.wav"


@pytest.fixture(scope="module")
def voice() -> talk.AudioWindows:
    return talk.encode_audio(read_audio(SPEECH), tiny())


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model(device=torch.device("cpu"), dtype=torch.float32)


def test_a_written_turn_is_what_speaks(voice: talk.AudioWindows) -> None:
    speech = talk.select_speaking(voice, turns=parse_timeline("1-2.5 A, 2.5- B"), name="A")
    assert len(speech.flags) == voice.num_latents
    (start, end), = speech.spans
    assert (start, end) == pytest.approx((1.0, 2.5), abs=0.081)
    other = talk.select_speaking(voice, turns=parse_timeline("1-2.5 A, 2.5- B"), name="B")
    assert not (speech.flags & other.flags).any()
    assert talk.select_speaking(voice, turns=parse_timeline("0- me")).flags[: voice.num_latents - 3].all()


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [("0-1 A, 1-2 B", "", "say which"), ("0-1 A, 1-2 B", "C", "the timeline names A, B"), ("0-1 A, 100-101 A", "A", "the sound is over")],
    ids=["no name", "another name", "after the sound"])
def test_a_schedule_that_does_not_fit(voice: talk.AudioWindows, text: str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        talk.select_speaking(voice, turns=parse_timeline(text), name=name)


def test_real_silence_reaches_the_projector_as_windows_of_silence(voice: talk.AudioWindows, model: TalkingModel) -> None:
    schedule = parse_timeline("0-1 A, 3- A")
    zero, real = (talk.select_speaking(voice, turns=schedule, silence=kind) for kind in ("zero", "real"))
    latents, like = range(0, 15), torch.zeros(0)
    assert model.projector is not None
    spoken = torch.from_numpy(zero.flags[:15])
    silence = model.projector.project(torch.full_like(voice.windows(latents), float(np.log(1e-5))), torch.ones(15, dtype=torch.bool), like)
    listen = model.projector.project
    heard = {s.silence: listen(s.windows(latents), s.speaking(latents), like).tokens for s in (zero, real)}
    assert 0 < spoken.sum() < 15 and torch.equal(heard["zero"][spoken], heard["real"][spoken])
    assert not heard["zero"][~spoken].any()
    assert heard["real"][~spoken].any() and torch.allclose(heard["real"][~spoken], silence.tokens[~spoken], atol=1e-5)


def test_a_speech_that_is_changed_keeps_its_kind_of_silence(voice: talk.AudioWindows) -> None:
    real = talk.select_speaking(voice, "speaking", silence="real")
    listening = replace(real, flags=np.zeros_like(real.flags))
    same = talk.select_speaking(voice, "listening", silence="real")
    assert torch.equal(listening.windows(range(5)), same.windows(range(5)))
    assert replace(listening, silence="zero").voice is voice
    with pytest.raises(InputError, match="silence: loud"):
        talk.select_speaking(voice, silence="loud")  # type: ignore[arg-type]


def test_the_default_is_zero_silence_on_the_same_voice(voice: talk.AudioWindows) -> None:
    speech = talk.select_speaking(voice)
    assert speech.voice is voice and speech.silence == "zero"
    assert speech.speaking(range(-1, 3)).tolist() == [False, *speech.flags[:3].tolist()]


@pytest.mark.parametrize("silence", ["zero", "real"])
def test_no_word_reaches_a_listening_face(model: TalkingModel, assets: Path, silence: str) -> None:
    """Two different sounds, both unheard: the same picture to the bit."""
    subject = talk.prepare_portrait(open_image(assets / "portraits" / "demo.jpg"), model.config)
    sound = read_audio(SPEECH)
    cut = replace(sound, samples=sound.samples[:16000])
    other = replace(sound, samples=np.ascontiguousarray(sound.samples[:16000][::-1]))
    made = []
    for waveform in (cut, other):
        speech = talk.select_speaking(talk.encode_audio(waveform, model.config), "listening", silence=silence)  # type: ignore[arg-type]
        stream = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech)))
        made.append(np.concatenate([chunk.frames for chunk in stream]))
    assert np.array_equal(*made)
