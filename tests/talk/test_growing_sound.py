"""A voice that is still arriving: the same video as of the whole sound, never ahead of it, as long as it turns out."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core import talk
from tm_core.audio.features import log_mel
from tm_core.audio.growing_sound import GrowingSound
from tm_core.audio.silence import speaking_latents
from tm_core.errors import Cancelled, InputError
from tm_core.media.audio_io import Waveform, read_audio
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import DecodedStream
from tm_core.weights.loading import load_model

RATE, LEVELS = 16000, {"levels": "absolute", "on_db": -40.0, "off_db": -46.0}


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="module")
def voice(assets: Path) -> np.ndarray:
    """Three seconds of speech."""
    return read_audio(assets / "speech" / "librivox_sense_and_sensibility_0870.wav").samples[: 3 * RATE]


@pytest.fixture(scope="module")
def portrait(model: TalkingModel, assets: Path) -> talk.Portrait:
    return talk.prepare_portrait(open_image(assets / "portraits" / "demo.jpg"), model.config)


def stream_of(model: TalkingModel, portrait: talk.Portrait, sound: Waveform | GrowingSound) -> DecodedStream:
    speaker = talk.select_speaking(talk.encode_audio(sound, model.config), **LEVELS)  # type: ignore[arg-type]
    return talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, portrait, speaker), seed=3), blinks=False)


def arriving(voice: np.ndarray, pieces: int, wait_s: float = 0.0) -> GrowingSound:
    """The voice, in pieces of uneven size, each after a while."""
    sound = GrowingSound()
    cuts = np.sort(np.random.default_rng(pieces).integers(0, len(voice), pieces - 1))

    def push() -> None:
        for piece in np.split(voice, cuts):
            sound.push(piece)
            time.sleep(wait_s)
        sound.finish()

    threading.Thread(target=push, daemon=True).start()
    return sound


def frames_of(stream: DecodedStream) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in stream])


@pytest.mark.parametrize("samples", [3 * RATE, 1234], ids=["three seconds", "a moment"])
def test_the_video_is_that_of_the_whole_sound(model: TalkingModel, portrait: talk.Portrait, voice: np.ndarray, samples: int) -> None:
    whole = frames_of(stream_of(model, portrait, Waveform(samples=voice[:samples], sample_rate=RATE)))
    stream = stream_of(model, portrait, arriving(voice[:samples], 40, 0.005))
    assert stream.meta.num_frames is None or samples < RATE
    made = frames_of(stream)
    assert np.array_equal(made, whole) and len(made) == max(1, round(25 * samples / RATE))
    assert np.array_equal(frames_of(stream), whole)  # again, from what is kept


def test_nothing_is_sampled_before_its_sound_is_there(model: TalkingModel, portrait: talk.Portrait, voice: np.ndarray) -> None:
    sound = GrowingSound()
    stream = stream_of(model, portrait, sound)
    latents = stream.latents
    taken: list[int] = []
    reader = threading.Thread(target=lambda: taken.extend(chunk.index for chunk in stream), daemon=True)
    reader.start()
    for piece in np.array_split(voice, 12):
        sound.push(piece)
        time.sleep(0.15)
        heard_s = sound.arrived / RATE
        assert latents.available == 0 or latents.meta.timeline.frames_of_chunk(latents.available - 1).stop / 25 <= heard_s
    until = time.monotonic() + 60
    while latents.available < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert 2 <= latents.available < 7  # what has looked far enough ahead
    sound.finish()
    reader.join(30)
    assert taken == list(range(7))


def test_who_waits_for_sound_can_be_cancelled(model: TalkingModel, portrait: talk.Portrait) -> None:
    token = CancelToken()
    chunks = stream_of(model, portrait, GrowingSound()).chunks(cancel=token)
    threading.Timer(0.2, token.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        next(chunks)
    assert time.monotonic() - began < 5


def test_windows_and_flags_are_bit_equal_to_those_of_the_whole(model: TalkingModel, voice: np.ndarray) -> None:
    whole = talk.encode_audio(Waveform(samples=voice, sample_rate=RATE), model.config)
    voiced = talk.encode_audio(arriving(voice, 60), model.config)
    speaker = talk.select_speaking(voiced, **LEVELS)  # type: ignore[arg-type]
    flags = speaking_latents(voice, whole.num_latents, whole.timeline, **LEVELS)  # type: ignore[arg-type]
    for i in range(0, 18, 3):
        latents = range(i, i + 3)
        assert torch.equal(voiced.windows(latents), whole.windows(latents))
        assert speaker.speaking(latents).tolist() == flags[i : i + 3].tolist()
    assert len(log_mel(voice, model.config.audio)) == 300 and voiced.num_frames == 75


def test_what_a_growing_sound_cannot_do_says_why(model: TalkingModel) -> None:
    sound = GrowingSound()
    voice = talk.encode_audio(sound, model.config)
    assert voice.known_frames is None and voice.sound is None
    with pytest.raises(InputError, match="audio: a sound that is still arriving: has no length yet; end the sound first"):
        _ = voice.num_frames
    with pytest.raises(InputError, match="levels: relative"):
        talk.select_speaking(voice)
    with pytest.raises(InputError, match="44100 Hz"):
        talk.encode_audio(GrowingSound(44100), model.config)
    sound.push(np.zeros(160, np.float32))
    sound.finish()
    assert voice.num_frames == 1
    with pytest.raises(InputError, match="came after the sound had ended"):
        sound.push(np.zeros(1, np.float32))
