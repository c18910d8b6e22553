"""Open checkpoints through the engine's own functions: files to frames, without a host. Small weights, true names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.open_files import save, write_models
from tm_core import talk
from tm_core.config import ModelConfig
from tm_core.errors import InputError
from tm_core.families.registry import identify, model_config
from tm_core.families.settings import Choices
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.streaming.handles import DecodedStream
from tm_core.vae.wan import WanVAE
from tm_core.weights.autoencoders import load_autoencoder
from tm_core.weights.files import read_header, shards
from tm_core.weights.open_models import load_open_model

RATE, SECONDS, WIDTH, HEIGHT = 16000, 1.3, 96, 64
PROMPT = talk.Prompt(text=torch.full((1, 8, 4096), 0.1), negative=torch.zeros(1, 8, 4096))
ADAPTERS = {
    "infinitetalk": "infinitetalk", "flashtalk": "infinitetalk", "multitalk": "infinitetalk", "infinitetalk_multi": "infinitetalk",
    "fantasytalking": "fantasytalking", "liveact": "liveact"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("open")
    torch.manual_seed(2)
    return write_models(folder) | save(folder, {"vae": dict(WanVAE(2).state_dict())})


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    return read_header(path).shapes


def model_of(files: dict[str, Path], name: str) -> TalkingModel:
    both = [files["base"], files[ADAPTERS[name]]]
    loaded = load_open_model(both, preset=name, dtype=torch.float32)
    config = model_config(identify([shapes_of(p) for p in both], preset=name), WIDTH, HEIGHT)
    return TalkingModel(config=config, dit=loaded.dit, projector=loaded.projector, vae=load_autoencoder(files["vae"]))


def speech_of(config: ModelConfig) -> tuple[Waveform, Tensor]:
    """Noise, and features of the shape that this family's encoder would make of it."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(SECONDS * RATE)).astype(np.float32)
    shape = (round(SECONDS * 50), 16) if config.name == "fantasytalking" else (round(SECONDS * config.fps), 12, 2)
    return Waveform(samples=samples, sample_rate=RATE), torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def portrait(assets: Path) -> np.ndarray:
    return open_image(assets / "portraits" / "demo.jpg")


def stream_of(model: TalkingModel, picture: np.ndarray, choices: Choices, seed: int = 0) -> DecodedStream:
    sound, features = speech_of(model.config)
    voice = talk.encode_audio(sound, model.config, speech=features)
    subject = talk.prepare_portrait(picture, model.config)
    built = talk.build_scene(model, subject, talk.select_speaking(voice, "speaking"), choices=choices, prompt=PROMPT)
    return talk.decode_stream(talk.sample_stream(model, built, seed=seed))


@pytest.mark.parametrize(("name", "chunks"), [
    *(pytest.param(name, [32], marks=pytest.mark.slow) for name in ("infinitetalk", "multitalk")), ("flashtalk", [32]),
    pytest.param("fantasytalking", [30], marks=pytest.mark.slow), ("liveact", [21, 10])])
def test_every_family_makes_as_many_frames_as_the_sound_has(
    files: dict[str, Path], portrait: np.ndarray, name: str, chunks: list[int],
) -> None:
    model = model_of(files, name)
    made = list(stream_of(model, portrait, Choices(steps=None if name == "liveact" else 1)))
    frames = np.concatenate([chunk.frames for chunk in made])
    assert [len(chunk.frames) for chunk in made] == chunks and sum(chunks) == round(SECONDS * model.config.fps)
    assert frames.shape[1:] == (HEIGHT, WIDTH, 3) and frames.std() > 1 and frames[0].std() > 1


def two_people(model: TalkingModel, picture: np.ndarray) -> talk.BuiltScene:
    """The portrait and its mirror image side by side, each with a voice of its own."""
    two, (sound, features) = np.concatenate([picture, picture[:, ::-1]], 1), speech_of(model.config)
    members = []
    for i, heard in enumerate((features, features.flip(0))):
        voice = talk.encode_audio(sound, model.config, speech=heard)
        members.append((talk.prepare_portrait(two, model.config, face_index=i), talk.select_speaking(voice, "speaking")))
    return talk.build_scene(model, *members[0], others=members[1:], choices=Choices(steps=1, text=1, audio=2), prompt=PROMPT)


@pytest.mark.slow
def test_two_people_are_heard_as_the_file_was_trained(files: dict[str, Path], portrait: np.ndarray) -> None:
    """The same weights and seed: InfiniteTalk's single file by masks, its multi file in one attention."""
    made = {}
    for name in ("infinitetalk", "infinitetalk_multi"):
        model = model_of(files, name)
        frames = np.concatenate([c.frames for c in talk.decode_stream(talk.sample_stream(model, two_people(model, portrait)))])
        assert frames.shape == (32, HEIGHT, WIDTH, 3) and frames.std() > 1
        made[name] = frames.astype(np.float32)
    assert np.abs(made["infinitetalk"] - made["infinitetalk_multi"]).mean() > 0.05


def test_masks_of_all_speakers_are_in_the_frame_of_the_first(files: dict[str, Path], portrait: np.ndarray) -> None:
    """The picture is wider than what the model shows: each face would be framed in its own part of it."""
    built = two_people(model_of(files, "infinitetalk_multi"), portrait)
    columns = torch.arange(WIDTH // 16).repeat(HEIGHT // 16).float()
    first, second = (s.mask for s in built.scene.speakers)
    centre = [float((m * columns).sum() / m.sum()) for m in (first, second)]
    assert centre[0] == pytest.approx(1.5, abs=0.7) and centre[1] > 4 and torch.minimum(first, second).max() < 0.1


def test_a_clip_model_as_sparse_causal_chunks(files: dict[str, Path], portrait: np.ndarray) -> None:
    made = list(stream_of(model_of(files, "infinitetalk"), portrait, Choices(steps=1, mode="sparse_causal", text=1, audio=1)))
    assert [(chunk.pts, len(chunk.frames)) for chunk in made] == [(0, 9), (9, 12), (21, 11)]


@torch.inference_mode()
def test_the_picture_is_read_as_wan_reads_it(files: dict[str, Path], portrait: np.ndarray) -> None:
    """Picture and empty video in one encode; ours goes through it a latent at a time."""
    model = model_of(files, "flashtalk")
    image = talk.prepare_portrait(portrait, model.config).image
    vae = model.vae
    whole, _ = vae.encode(torch.cat([image[None], torch.full((32, *image.shape), 0.5)]), vae.open_encoder())
    assert (talk.encode_picture(model, image, model.config.sampler) - whole[0]).abs().max() < 1e-5


def test_the_picture_keeps_its_shape_and_the_face_its_place(files: dict[str, Path], portrait: np.ndarray) -> None:
    config = model_of(files, "flashtalk").config
    subject = talk.prepare_portrait(portrait, config)
    assert subject.crop.image.shape == (HEIGHT, WIDTH, 3) and subject.mask.min() == 1
    x0, y0, x1, y1 = subject.crop.box
    assert (x1 - x0) / (y1 - y0) == pytest.approx(WIDTH / HEIGHT) and x1 - x0 == pytest.approx(portrait.shape[1])
    middle = subject.crop.landmarks[:, :2].mean(0)
    assert abs(middle[1] - HEIGHT / 2) < 8 and 0 < middle[0] < WIDTH


def test_of_several_faces_one_is_chosen_and_only_it_may_move(files: dict[str, Path], portrait: np.ndarray) -> None:
    config = model_of(files, "flashtalk").config
    two = np.concatenate([portrait, portrait[:, ::-1]], 1)
    with pytest.raises(InputError, match="2 faces"):
        talk.prepare_portrait(two, config)
    left, right = (talk.prepare_portrait(two, config, face_index=i).mask for i in (0, 1))
    columns = np.arange(WIDTH)
    assert left.shape == (HEIGHT, WIDTH) and (left * columns).sum() / left.sum() < (right * columns).sum() / right.sum() - 5
    assert left.max() > 0.9 and left.mean() < 0.7


def test_a_landscape_without_a_face_is_framed_all_the_same(files: dict[str, Path]) -> None:
    config = model_of(files, "flashtalk").config
    subject = talk.prepare_portrait(np.full((50, 300, 3), 90, np.uint8), config)
    assert subject.crop.image.shape == (HEIGHT, WIDTH, 3) and subject.crop.landmarks.shape == (0, 3)


def test_what_is_missing_is_named(files: dict[str, Path], portrait: np.ndarray) -> None:
    model = model_of(files, "infinitetalk")
    sound, features = speech_of(model.config)
    with pytest.raises(InputError, match="audio_encoder: nothing: InfiniteTalk hears through chinese-wav2vec2-base"):
        talk.encode_audio(sound, model.config)
    voice = talk.encode_audio(sound, model.config, speech=features)
    subject = talk.prepare_portrait(portrait, model.config)
    for prompt, name in ((talk.Prompt(), "positive"), (talk.Prompt(text=PROMPT.text), "negative")):
        with pytest.raises(InputError, match=f"^{name}: nothing: InfiniteTalk was trained with a prompt"):
            talk.build_scene(model, subject, talk.select_speaking(voice), prompt=prompt)
    prompt = talk.Prompt(text=PROMPT.text)
    distilled = talk.build_scene(model, subject, talk.select_speaking(voice), prompt=prompt, choices=Choices(text=1.0))
    assert distilled.scene.negative is None


@pytest.mark.parametrize(("prompt", "says"), [
    (replace(PROMPT, text=torch.zeros(1, 77, 768)), "positive: vectors of 768: InfiniteTalk reads vectors of 4096; encode it with Wan's"),
    (replace(PROMPT, negative=torch.zeros(1, 77, 768)), "negative: vectors of 768: InfiniteTalk reads vectors of 4096"),
    (replace(PROMPT, image=torch.zeros(1, 257, 1024)), "clip_vision_output: vectors of 1024: InfiniteTalk reads vectors of 1280"),
], ids=["positive", "negative", "picture"])
def test_what_another_models_encoder_made_is_refused(
    files: dict[str, Path], prompt: talk.Prompt, says: str,
) -> None:
    model = model_of(files, "infinitetalk")
    with pytest.raises(InputError, match=says):
        talk.check_prompt(model.config, model.config.sampler, prompt)


@pytest.mark.parametrize(("width", "height", "says"), [(72, 64, "width: 72: must be a multiple of 16 pixels; use 64"),
                                                       (64, 8, "height: 8: must be a multiple of 16 pixels; use 16")])
def test_sizes_are_whole_tokens(files: dict[str, Path], width: int, height: int, says: str) -> None:
    with pytest.raises(InputError) as error:
        model_config(identify([shapes_of(files["base"])]), width, height)
    assert str(error.value) == says


def test_a_checkpoint_in_several_files_is_all_of_them(tmp_path: Path) -> None:
    names = [tmp_path / f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    for name in names:
        name.touch()
    assert shards(names[1]) == names and shards(tmp_path / "one.safetensors") == [tmp_path / "one.safetensors"]
    names[2].unlink()
    with pytest.raises(InputError, match=r"1 of its 3 files are missing, first model-00003-of-00003\.safetensors"):
        shards(names[0])
