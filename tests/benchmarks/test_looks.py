"""`bench looks` and the pictures of `make demo`: moments follow from phones, odd pictures get a verdict."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import looks
from benchmarks._corpus import RATE, Sound
from benchmarks._sheet import row_sheet
from tm_core.errors import InputError
from tm_core.media.video_io import VideoWriter
from tm_core.metrics.phones import Phone, recognise_phones
from tm_core.model.talking import TalkingModel

PHONES = [
    Phone("M", 0.1, 0.12), Phone("AA", 0.2, 0.4), Phone("M", 0.5, 0.6), Phone("AA", 1.0, 1.2), Phone("SIL", 1.2, 1.6), Phone("S", 1.6, 1.8)]


def sound(name: str, real: bool, phones: list[Phone]) -> Sound:
    return Sound(name=name, real=real, samples=np.zeros(2 * RATE, np.float32), phones=phones)


def test_moments_are_the_first_of_each_that_last() -> None:
    assert looks.moments(PHONES, ("M", "AA", "SIL", "F")) == pytest.approx({"AA": 0.3, "M": 0.55, "SIL": 0.8})


def test_the_first_recording_with_every_sound_is_taken() -> None:
    sounds = [sound("made", False, PHONES), sound("poor", True, PHONES[:2]), sound("rich", True, PHONES)]
    chosen, at = looks.speech_with(("S", "AA"), sounds)
    assert chosen.name == "rich" and list(at) == ["S", "AA"]
    with pytest.raises(InputError, match="ZH"):
        looks.speech_with(("ZH",), sounds)


@pytest.mark.parametrize("make", [looks.pencil, looks.tilted, looks.small, looks.smiley], ids=lambda f: f.__name__)
def test_made_pictures_are_pictures(make: object) -> None:
    picture = make()  # type: ignore[operator]
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_a_row_sheet_has_a_line_for_each_row(tmp_path: Path) -> None:
    frame = np.full((20, 30, 3), 200, np.uint8)
    path = row_sheet(["a", "b"], [("one", [frame, frame]), ("two", [frame])], tmp_path / "deep" / "sheet.jpg")
    assert Image.open(path).size == (60, 14 + 2 * 34)


@pytest.mark.slow
def test_a_smiley_breaks_and_the_demo_portrait_holds(model: TalkingModel, assets: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx (extra score) says which sounds the voice makes")
    from benchmarks._common import speech_of
    from tm_core.media.image_io import open_image

    samples = speech_of(5.0).samples
    said = Sound(name="demo", real=True, samples=samples, phones=recognise_phones(samples))
    broken = looks.judge(model, looks.Input(name="smiley", picture=looks.smiley), said, {"AA": 1.0})
    assert not broken.holds and "face" in broken.why and len(broken.frames) == 1
    fine = looks.judge(model, looks.Input(name="demo", picture=lambda: open_image(assets / "portraits" / "demo.jpg")), said, {"AA": 1.0})
    assert fine.holds and len(fine.frames) == 2 and fine.line.startswith("demo: holds")


@pytest.mark.slow
def test_a_held_out_picture_is_judged_in_its_own_framing(model: TalkingModel, assets: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx (extra score) says which sounds the voice makes")
    from benchmarks import _held_kinds
    from benchmarks._common import speech_of
    from tm_core.media.image_io import open_image

    samples = speech_of(4.0).samples
    said = Sound(name="demo", real=True, samples=samples, phones=recognise_phones(samples))
    found = [
        _held_kinds._judged(model, picture, {"file": name, "kinds": ["x"]}, said, {"AA": 1.0, "M": 2.0})
        for name, picture in (("demo.png", open_image(assets / "portraits" / "demo.jpg")), ("smiley.png", looks.smiley()))]
    assert [v.outcome for v in found] == ["talks", "refused"] and [len(v.frames) for v in found] == [3, 1]
    assert all(0.85 < value < 1.15 for value in found[0].sharpness.values()) and "eyes" in found[0].sharpness
    counts = {row["what"]: row["value"] for row in _held_kinds._counts(found)}
    assert counts["held-out pictures that talk"] == counts["held-out pictures that are refused"] == 1
    assert counts["pictures changed outside the face's crop"] == 0


def test_lips_follow_only_where_they_move_with_the_sound(assets: Path) -> None:
    from benchmarks import _held_kinds
    from benchmarks._truth import look_at
    from tm_core.media.image_io import open_image

    fps, frames = 25.0, 30
    opening = np.clip(np.sin(np.arange(frames) / fps * 2 * np.pi * 2.3), 0, 1)
    picture = np.asarray(Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((256, 256)))
    landmarks = np.repeat(look_at(picture[None]).landmarks, frames, 0)

    def spoken(share: float, late: int = 0) -> np.ndarray:
        moved = landmarks.copy()
        moved[:, 14, 1] += share * (landmarks[0, 152, 1] - landmarks[0, 10, 1]) * np.roll(opening, late)
        return moved

    still = np.repeat(picture[None], frames, 0)
    assert _held_kinds.follows(still, spoken(0.05), opening, fps) == (pytest.approx(1), True)
    # the second look sees that the pictures themselves stand still
    for landmarks_told in (spoken(0.0), spoken(0.05, late=5)):
        r, follow = _held_kinds.follows(still, landmarks_told, opening, fps)
        assert not follow and abs(r) < 0.5


@pytest.mark.slow
def test_a_small_run(held_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "SOUNDS", ("AA", "IY"))
    monkeypatch.setattr(looks, "IDENTITIES", 2)
    monkeypatch.setattr(looks, "inputs", lambda: [looks.Input(name="a smiley", picture=looks.smiley)])
    results = looks.run(seconds=2.0, out=tmp_path, part=["identities", "inputs"])
    by = {r["what"]: r["value"] for r in results}
    assert by["identities"] == 2 and by["a smiley"].startswith("breaks")
    assert Image.open(tmp_path / "looks.jpg").size == (512, 14 + 2 * 270) and (tmp_path / "inputs.jpg").is_file()


def test_demo_pictures_are_short_and_small(repo_root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("demo_pictures", repo_root / "scripts" / "demo_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    frames = np.random.default_rng(0).integers(0, 255, (120, 64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "x.mp4", 64, 64, 25) as writer:
        writer.write(frames)
    animation, still = module.write_pictures(tmp_path / "x.mp4", tmp_path / "out")
    opened = Image.open(animation)
    assert opened.n_frames == 75 and animation.stat().st_size <= module.MAX_BYTES
    assert Image.open(still).size == (4 * 64, 2 * 64)
