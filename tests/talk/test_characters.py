"""Several faces of one picture, and portraits on one canvas, with the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core import talk
from tm_core.audio.silenced_windows import Silence
from tm_core.compose import assembly
from tm_core.compose.canvas import FrameStream
from tm_core.compose.mix import Track, write_mix
from tm_core.errors import InputError
from tm_core.inputs import SpeakingMode
from tm_core.media.audio_io import Waveform, read_audio
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.options import AnimateOptions
from tm_core.talk.framing import side_by_side, view_of
from tm_core.weights.loading import load_model

RATE = 16000


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="module")
def picture(assets: Path) -> np.ndarray:
    """The demo portrait twice, once mirrored, on grey."""
    face = open_image(assets / "portraits" / "demo.jpg")
    face = face[: min(face.shape[:2]), : min(face.shape[:2])]
    row = np.concatenate([face, face[:, ::-1]], 1)
    return np.pad(row, [(40, 40), (30, 31), (0, 0)], constant_values=90)


@pytest.fixture(scope="module")
def voice(assets: Path) -> Waveform:
    sound = read_audio(next((assets / "speech").glob("*.wav")))
    return Waveform(samples=sound.samples[: round(1.2 * RATE)])


def character(
    model: TalkingModel, picture: np.ndarray, face: int, sound: Waveform, mode: SpeakingMode = "speaking",
) -> talk.Character:
    speech = talk.select_speaking(talk.encode_audio(sound, model.config), mode)
    return talk.Character(portrait=talk.prepare_portrait(picture, model.config, face_index=face), speaker=speech, name="AB"[face])


def rendered(frames: FrameStream) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in frames.chunks()])


def mouth(frames: np.ndarray, one: talk.Character) -> np.ndarray:
    """The lower half of a character's crop in frames of the whole picture."""
    x0, y0, x1, y1 = (round(v) for v in one.portrait.crop.box)
    width, height = x1 - x0, y1 - y0
    return frames[:, y0 + height // 2 : y1 - height // 4, x0 + width // 3 : x1 - width // 3].astype(np.float32)


def motion(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=0)).mean())


def differing(a: np.ndarray, b: np.ndarray, most: int = 1) -> float:
    """Share of pixels that are not equal; each by `most` levels of 255: places in a part of a picture are rounded otherwise."""
    apart = np.abs(a.astype(int) - b)
    assert apart.max(initial=0) <= most
    return float((apart > 0).mean())


@pytest.mark.slow
def test_only_who_speaks_moves_the_mouth_and_swapping_voices_swaps_mouths(
    model: TalkingModel, picture: np.ndarray, voice: Waveform,
) -> None:
    made = []
    for speaker in (0, 1):
        cast = [character(model, picture, i, voice, "speaking" if i == speaker else "listening") for i in (0, 1)]
        frames = rendered(talk.scene_stream(model, picture, cast, voice))
        assert frames.shape == (30, *picture.shape)
        moved = [motion(mouth(frames, one)) for one in cast]
        assert moved[1 - speaker] < 0.35 * moved[speaker]
        made.append(frames)
    assert np.abs(made[0].astype(int) - made[1]).max() > 60


def test_outside_the_crops_the_picture_is_untouched(model: TalkingModel, picture: np.ndarray, voice: Waveform) -> None:
    cast = [character(model, picture, i, voice) for i in (0, 1)]
    frames = rendered(talk.scene_stream(model, picture, cast, voice))
    outside = np.ones(picture.shape[:2], bool)
    for one in cast:
        x0, y0, x1, y1 = one.portrait.crop.box
        outside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
    assert outside.mean() > 0.2 and (frames[:, outside] == picture[outside]).all()


@pytest.mark.slow
def test_a_face_among_others_is_the_face_alone(model: TalkingModel, picture: np.ndarray, voice: Waveform) -> None:
    """The same seed gives the same mouth, whoever else is there and however long they speak."""
    one, longer = character(model, picture, 0, voice), Waveform(samples=np.concatenate([voice.samples, voice.samples]))
    alone = rendered(talk.scene_stream(model, picture, [one], voice, seed=3))
    other = character(model, picture, 1, longer)
    both = rendered(talk.scene_stream(model, picture, [one, other], voice, seed=3))
    assert len(alone) == 30 and len(both) == 60
    assert np.array_equal(mouth(alone[:25], one), mouth(both[:25], one))
    assert motion(mouth(both[36:], one)) < 0.5 * motion(mouth(both[:25], one)) < 2 * motion(mouth(both[36:], other))


@pytest.mark.parametrize("silence", ["zero", "real"])
def test_who_has_finished_listens_until_the_longest_is_done(model: TalkingModel, voice: Waveform, silence: Silence) -> None:
    speech = talk.select_speaking(talk.encode_audio(voice, model.config), "speaking", silence=silence)
    longer = speech.lasting(3.0)
    assert longer.voice.num_frames == 75 and longer.silence == silence and speech.voice.num_frames == 30
    assert np.array_equal(longer.voice.windows(range(3)), speech.voice.windows(range(3)))
    after = longer.voice.windows(range(14, 18))
    assert float(after.max()) == float(after.min()) and bool(longer.speaking(range(14, 18)).any()) == (silence == "real")


def test_paste_back_is_a_scene_of_one(model: TalkingModel, picture: np.ndarray, voice: Waveform) -> None:
    one = character(model, picture, 1, voice)
    crop = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, one.portrait, one.speaker), seed=3))
    pasted = talk.put_back(picture, [crop], [one.portrait])
    assert (pasted.meta.width, pasted.meta.height) == picture.shape[1::-1] and pasted.meta.audio is crop.meta.audio
    assert np.array_equal(rendered(pasted), rendered(talk.scene_stream(model, picture, [one], voice, seed=3)))


@pytest.mark.parametrize(("width", "height"), [(6000, 1400), (6000, 4000)], ids=["too wide", "too many pixels"])
def test_a_picture_larger_than_players_take_is_shrunk_with_the_face_in_its_place(
    model: TalkingModel, picture: np.ndarray, voice: Waveform, caplog: pytest.LogCaptureFixture, width: int, height: int,
) -> None:
    large = np.full((height, width, 3), 90, np.uint8)
    left, top = width - picture.shape[1] - 500, height - picture.shape[0] - 400
    large[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    alone = talk.prepare_portrait(picture, model.config, face_index=0)
    x0, y0, x1, y1 = alone.crop.box
    there = replace(alone, crop=replace(alone.crop, box=(x0 + left, y0 + top, x1 + left, y1 + top)))
    voice = Waveform(samples=voice.samples[: RATE // 8])
    speech = talk.select_speaking(talk.encode_audio(voice, model.config), "speaking")
    pasted = talk.scene_stream(model, large, [talk.Character(portrait=there, speaker=speech)], voice, size=6000)
    w, h = pasted.meta.width, pasted.meta.height
    assert max(w, h) <= 4096 and -(-w // 16) * -(-h // 16) <= 36864 and w * h > 0.95 * min(4096 * 4096 * height / width, 36864 * 256)
    assert w / h == pytest.approx(width / height, rel=2e-3) and w % 2 == h % 2 == 0
    assert caplog.messages == [f"the picture of {width} x {height} pixels becomes a video of {w} x {h}: players take no larger ones"]
    frames = rendered(pasted)
    assert frames.shape[1:] == (h, w, 3)
    still = np.asarray(Image.fromarray(large).resize((w, h), Image.Resampling.LANCZOS))
    rows, columns = np.nonzero(np.abs(frames[-1, ..., 1].astype(np.int16) - still[..., 1]) > 6)
    k = w / width
    assert columns.size and columns.min() >= (x0 + left) * k - 1 and columns.max() <= (x1 + left) * k + 1
    assert rows.min() >= (y0 + top) * k - 1 and rows.max() <= (y1 + top) * k + 1


def test_all_faces_of_a_picture_say_the_same(model: TalkingModel, picture: np.ndarray, voice: Waveform, tmp_path: Path) -> None:
    image, audio = tmp_path / "two.png", tmp_path / "voice.wav"
    Image.fromarray(picture).save(image)
    write_mix([Track(sound=Waveform(samples=voice.samples[: RATE * 2 // 5], sample_rate=RATE))], 0.4, audio)
    everybody = AnimateOptions(face="all", speaking="speaking", blinks=False)
    stream = talk.animate(image, audio, model=model, options=everybody)
    frames = rendered(stream)
    assert frames.shape[1:] == picture.shape and stream.meta.audio == audio
    cast = [character(model, picture, i, voice) for i in (0, 1)]
    assert all(motion(mouth(frames, one)) > 0.3 for one in cast)
    alone = rendered(talk.animate(image, audio, model=model, options=replace(everybody, face=0)))
    left = slice(0, round(cast[1].portrait.crop.box[0]))  # these crops do not touch
    assert differing(frames[:, :, left], alone[:, :, left]) < 0.001 and motion(mouth(alone, cast[1])) == 0
    with pytest.raises(InputError, match=r"mask: .*: a mask marks one face, and all are animated"):
        talk.animate(image, audio, model=model, options=everybody, mask=image)


def test_a_neighbour_changes_a_face_only_where_their_crops_meet(
    model: TalkingModel, picture: np.ndarray, voice: Waveform, tmp_path: Path,
) -> None:
    face = picture[40:-40, 30 : picture.shape[1] // 2]
    face = face[:, round(0.22 * face.shape[1]) : round(0.8 * face.shape[1])]
    close = np.pad(np.concatenate([face, face[:, ::-1]], 1), [(40, 40), (30, 30), (0, 0)], constant_values=90)
    image, audio = tmp_path / "close.png", tmp_path / "voice.wav"
    Image.fromarray(close).save(image)
    write_mix([Track(sound=Waveform(samples=voice.samples[: RATE * 2 // 5], sample_rate=RATE))], 0.4, audio)
    options = AnimateOptions(face="all", speaking="speaking", blinks=False)
    both = rendered(talk.animate(image, audio, model=model, options=options))
    alone = rendered(talk.animate(image, audio, model=model, options=replace(options, face=0)))
    views = [view_of(character(model, close, i, voice).portrait) for i in (0, 1)]
    part, box, own = side_by_side(views)[0]
    assert own is not None and views[0].box[2] > views[1].box[0]  # the crops overlap
    border = part.box[0] + (np.flatnonzero((part.share != views[0].share).any(0)) + 0.5) / len(part.share) * (part.box[2] - part.box[0])
    x0, end = int(box[0]), int(box[0] + border.min())  # from `end` on the motion fades
    assert end - 16 > views[0].landmarks[[61, 291], 0].max()  # the whole mouth is before it
    assert differing(both[:, :, x0 : end - 16], alone[:, :, x0 : end - 16]) < 0.001
    assert np.abs(both[:, :, end:].astype(int) - alone[:, :, end:]).max() > 1


def test_portraits_made_apart_meet_on_a_canvas(model: TalkingModel, picture: np.ndarray, voice: Waveform, tmp_path: Path) -> None:
    parts = []
    for face in (0, 1):
        one = character(model, picture, face, voice)
        latents = talk.sample_stream(model, talk.build_scene(model, one.portrait, one.speaker), seed=face)
        parts.append(talk.decode_stream(latents, framing="face", size=128))
    canvas = assembly.background(300, 160, "#102030")
    placed = [
        assembly.Placement(frames=parts[0], x=10, y=16),
        assembly.Placement(frames=parts[1], x=150, y=16, width=140, height=140, start_s=0.4, pan=1)]
    stream = assembly.assemble(canvas, placed, sound_folder=tmp_path)
    frames = rendered(stream)
    assert frames.shape == (40, 160, 300, 3)
    assert (frames[:, :, :10] == canvas[:, :10]).all() and (frames[:, :, 295:] == canvas[:, 295:]).all()
    assert np.array_equal(frames[:30, 16:144, 10:138], rendered(parts[0]))
    assert stream.meta.audio == tmp_path / "mix.wav" and read_audio(tmp_path / "mix.wav").duration_s == pytest.approx(1.6, abs=0.01)


def test_what_cannot_be_says_so(model: TalkingModel, picture: np.ndarray, voice: Waveform) -> None:
    one = character(model, picture, 0, voice)
    with pytest.raises(InputError, match=r"characters 0 and 1 \(A, A\): have the same face"):
        talk.scene_stream(model, picture, [one, one], voice)
    with pytest.raises(InputError, match="characters: 0"):
        talk.scene_stream(model, picture, [], voice)
    right = character(model, picture, 1, voice)
    with pytest.raises(InputError, match="was not cut from this picture"):
        talk.scene_stream(model, picture[:, :200], [right], voice)
    with pytest.raises(InputError, match="background: blurple: is no colour"):
        assembly.background(100, 100, "blurple")
    with pytest.raises(InputError, match="width: 4: must be 16 to"):
        assembly.background(4, 100, "black")
    with pytest.raises(InputError, match="layers: 0"):
        assembly.assemble(picture, [])
    frames = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, one.portrait, one.speaker)))
    with pytest.raises(InputError, match="a mix needs a place"):
        assembly.assemble(picture, [assembly.Placement(frames=frames), assembly.Placement(frames=frames, x=5, pan=1.0)])
