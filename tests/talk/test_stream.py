"""From files to frames through the real parts, with an untrained model: what reaches the sampler and the sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core import talk
from tm_core.config import SamplerConfig, VAEConfig, tiny
from tm_core.errors import InputError
from tm_core.families.settings import noise_schedule
from tm_core.inputs import SpeakingMode
from tm_core.media.audio_io import Waveform, read_audio
from tm_core.media.image_io import open_image
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import WeightNeeds
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.timeline import Timeline
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import TalkingModel, load_model

RATE = 16000


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    torch.manual_seed(0)
    cfg = tiny()
    assert cfg.projector is not None and cfg.vae is not None
    return TalkingModel(
        config=cfg, dit=TalkingDiT(cfg.dit).eval(), projector=AudioProjector(cfg.projector).eval(), vae=TinyVAE(cfg.vae).eval())


@pytest.fixture(scope="module")
def picture(assets: Path) -> np.ndarray:
    path = next(p for p in sorted((assets / "portraits").iterdir()) if p.suffix in (".png", ".jpg", ".webp"))
    return open_image(path)


@pytest.fixture(scope="module")
def recording(assets: Path) -> Waveform:
    return read_audio(next(p for p in sorted((assets / "speech").iterdir()) if p.suffix == ".wav"))


@pytest.fixture(scope="module")
def subject(model: TalkingModel, picture: np.ndarray) -> talk.Portrait:
    return talk.prepare_portrait(picture, model.config)


def tone(seconds: float, level: float = 0.3) -> Waveform:
    t = np.arange(round(seconds * RATE)) / RATE
    wobble = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    return Waveform(samples=(level * wobble * np.sin(2 * np.pi * 170 * t)).astype(np.float32), sample_rate=RATE)


def stream(model: TalkingModel, subject: talk.Portrait, sound: Waveform, *, mode: SpeakingMode = "auto", seed: int = 0) -> DecodedStream:
    speech = talk.select_speaking(talk.encode_audio(sound, model.config), mode)
    return talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech), seed=seed))


def timeline_frames(chunks: int) -> int:
    return talk.timeline_of(tiny()).frames_of_chunk(chunks - 1).stop


def render(frames: DecodedStream) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in frames])


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 1), (0.04, 1), (0.3, 8), (1.0, 25), (1.77, 44)], ids=lambda v: str(v))
def test_the_video_is_as_long_as_the_sound(model: TalkingModel, subject: talk.Portrait, seconds: float, frames: int) -> None:
    video = render(stream(model, subject, tone(seconds)))
    assert video.shape == (frames, *subject.picture.shape) and video.dtype == np.uint8
    assert abs(frames / 25 - seconds) <= 0.04


def test_the_same_inputs_give_the_same_pixels(model: TalkingModel, subject: talk.Portrait) -> None:
    first = render(stream(model, subject, tone(1.0), seed=5))
    assert np.array_equal(first, render(stream(model, subject, tone(1.0), seed=5)))
    assert not np.array_equal(first, render(stream(model, subject, tone(1.0), seed=6)))


def test_a_longer_sound_begins_with_the_same_frames(model: TalkingModel, subject: talk.Portrait) -> None:
    long = tone(3.0)
    short = Waveform(samples=long.samples[: 2 * RATE], sample_rate=RATE)
    mode: SpeakingMode = "speaking"
    both = [render(stream(model, subject, s, mode=mode)) for s in (short, long)]
    hears_the_end = (50 - 8) // 4 + 1  # first latent whose window reaches past frame 49, the last of the short sound
    kept = timeline_frames(hears_the_end // 3)
    assert kept == 33 and np.array_equal(both[0][:kept], both[1][:kept])
    assert not np.array_equal(both[0][kept:50], both[1][kept:50])


def test_listening_does_not_hear_the_sound(model: TalkingModel, subject: talk.Portrait) -> None:
    quiet = Waveform(samples=np.zeros(RATE, np.float32), sample_rate=RATE)
    listening = render(stream(model, subject, tone(1.0), mode="listening"))
    assert np.array_equal(listening, render(stream(model, subject, quiet, mode="auto")))
    assert not np.array_equal(listening, render(stream(model, subject, tone(1.0), mode="speaking")))


def test_a_wire_can_be_drained_twice_and_by_two_sinks(model: TalkingModel, subject: talk.Portrait) -> None:
    frames = stream(model, subject, tone(1.0))
    first = render(frames)
    assert np.array_equal(first, render(frames))
    assert np.array_equal(first, render(talk.decode_stream(frames.latents, device="cpu", queue_depth=1)))
    assert frames.latents.sampled == frames.meta.num_chunks


def test_pauses_of_real_speech_are_silence(model: TalkingModel, recording: Waveform) -> None:
    gap = np.zeros(2 * RATE, np.float32)
    padded = Waveform(samples=np.concatenate([recording.samples, gap]), sample_rate=RATE)
    speech = talk.select_speaking(talk.encode_audio(padded, model.config))
    latents = speech.voice.num_latents
    assert not speech.speaking(range(latents - 9, latents)).any()
    assert speech.speaking(range(0, latents)).float().mean() > 0.3
    assert not speech.speaking(range(latents, latents + 3)).any()


def test_windows_outside_the_sound_are_silence(model: TalkingModel) -> None:
    voice = talk.encode_audio(tone(1.0), model.config)
    far = voice.windows(range(1000, 1003))
    assert far.shape[0] == 3 and torch.equal(far[0], far[2])
    assert not torch.equal(voice.windows(range(3, 4))[0], far[0])


def test_a_mask_over_the_picture_wins(model: TalkingModel, picture: np.ndarray, subject: talk.Portrait) -> None:
    lower = np.zeros(picture.shape[:2], np.float32)
    lower[picture.shape[0] // 2 :] = 1.0
    masked = talk.prepare_portrait(picture, model.config, mask=lower)
    assert masked.mask.shape == (128, 128)
    assert masked.mask[-1].mean() > 0.9 > 0.1 > masked.mask[0].mean()
    assert not np.array_equal(masked.mask, subject.mask)


def test_meta_is_known_before_anything_is_sampled(model: TalkingModel, subject: talk.Portrait) -> None:
    frames = stream(model, subject, tone(2.0))
    height, width = subject.picture.shape[:2]
    assert (frames.meta.num_frames, frames.meta.width, frames.meta.height, float(frames.meta.fps)) == (50, width, height, 25.0)
    assert frames.meta.audio_s == pytest.approx(2.0) and frames.latents.sampled == 0


@pytest.mark.parametrize(
    ("steps", "sigmas"), [(None, (1.0, 0.75)), (2, (1.0, 0.75)), (1, (1.0,)), (4, (1.0, 0.875, 0.75, 0.375))], ids=str)
def test_other_numbers_of_steps_follow_the_same_curve(steps: int | None, sigmas: tuple[float, ...]) -> None:
    assert noise_schedule(SamplerConfig(sigmas=(1.0, 0.75)), steps).sigmas == pytest.approx(sigmas)


@pytest.mark.parametrize("bad", [0, -3, 101])
def test_unusable_numbers_of_steps_are_refused(bad: int) -> None:
    with pytest.raises(InputError, match="steps"):
        noise_schedule(SamplerConfig(), bad)


def test_no_sound_at_all_is_refused(model: TalkingModel) -> None:
    with pytest.raises(InputError, match="audio"):
        talk.encode_audio(Waveform(samples=np.zeros(0, np.float32), sample_rate=RATE), model.config)


def test_a_portrait_of_another_size_is_refused(model: TalkingModel, picture: np.ndarray) -> None:
    other = talk.prepare_portrait(picture, replace(model.config, width=192, height=192))
    speech = talk.select_speaking(talk.encode_audio(tone(0.3), model.config))
    with pytest.raises(InputError, match="192x192"):
        talk.build_scene(model, other, speech)


@pytest.mark.parametrize("name", ["abacus", "cuda:77"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        talk.parse_device("device", name)


def test_the_cpu_is_left_as_it_was(model: TalkingModel, subject: talk.Portrait) -> None:
    before = torch.get_num_threads()
    render(stream(model, subject, tone(0.3)))
    assert torch.get_num_threads() == before


def test_the_denoiser_stays_where_the_transformer_is() -> None:
    """Not where the autoencoder is: with the decoder on the CPU the transformer would leave its GPU's stream."""
    here, there = torch.device("cpu"), torch.device("meta")
    vae = TinyVAE(VAEConfig()).to(there)
    meta = StreamMeta(width=128, height=128, num_frames=9, timeline=Timeline(fps=Fraction(25)), audio_s=0.36)
    latents = LatentStream(None, meta, DecoderInput(vae=vae, reference=torch.zeros(3, 128, 128)), device=here)  # type: ignore[arg-type]
    stream = talk.decode_stream(latents)
    assert (stream.denoise_on.device, stream.decode_on.device) == (here, there)


def test_a_still_is_encoded_without_the_transformer() -> None:
    needed: list[tuple[bool, bool]] = []

    class Loader:
        def load(self, needs: Sequence[WeightNeeds]) -> None:
            needed.extend((need.transformer, need.autoencoder is model.vae) for need in needs)

    model = replace(load_model(), loader=Loader())
    talk.encode_picture(model, torch.zeros(3, 128, 128), model.config.sampler)
    assert needed == [(False, True)]
