"""`bench looks --part mouth`: every bar is met by figures that meet it alone, and lips that never move are told from ones that do."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import _mouth_truth, looks
from benchmarks._common import speech_of
from tm_core.audio.features import log_mel
from tm_core.config import AudioConfig
from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import crop_portrait
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.train.dataset import FLOOR, STEP, SpeechDataset, mouth_shapes
from tm_core.train.mouth_clips import SIDE, _normal
from tm_core.train.mouth_training import untrained_head
from tm_core.train.people import PackedFaces
from tm_core.train.visemes import mouth_weights
from tm_core.vae.tiny import TinyVAE

FINE = {
    "inside": 0.6, "ring": 0.55, "lip_px": 1.3, "sharpness": 1.05, "jitter_px": 0.1, "made_inside": 1.0, "today_inside": 2.0,
    "made_ring": 1.0, "today_ring": 2.0}


def missed(**figures: float) -> list[str]:
    return [r["what"] for r in _mouth_truth.figure_rows([FINE | figures]) if r["ok"] is False]


def test_bars_are_the_issues_and_each_can_be_missed() -> None:
    assert not missed() and not missed(sharpness=0.95, jitter_px=-0.2)
    assert [sum(r["ok"] is not None for r in _mouth_truth.figure_rows([FINE])), len(missed(inside=0.61, ring=0.56))] == [5, 2]
    for worse in ({"lip_px": 1.31}, {"sharpness": 0.94}, {"sharpness": 1.06}, {"jitter_px": 0.11}):
        assert len(missed(**worse)) == 1
    spread = {r["what"]: r["value"] for r in _mouth_truth.figure_rows([FINE, FINE | {"inside": 0.4}])}
    assert spread["mouth: error inside the mouth over today's, mean"] == pytest.approx(0.5)
    assert spread["mouth: error inside the mouth over today's, from person to person"] == "0.400 to 0.600"


def test_a_tile_is_the_middle_twice_as_large() -> None:
    rows, columns = _mouth_truth.WINDOW
    picture = torch.zeros(3, rows + 20, columns - 30)
    picture[:, rows // 2 + 8 : rows // 2 + 12, columns // 2 - 17 : columns // 2 - 13] = 1
    tile = _mouth_truth._tile(picture)
    assert tile.shape == (2 * rows, 2 * columns, 3) and tile[:, 0].min() == 255, "white where the picture ends"
    assert tile[rows, columns].min() > 200 and tile[rows + 20, columns].max() < 60


def test_what_is_missing_is_said_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TM_BUILD", str(tmp_path / "none"))
    with pytest.raises(InputError, match="train prepare") as told:
        looks.run(out=tmp_path, part=["identities", "mouth"])
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_weights_without_a_head_are_refused(model: TalkingModel) -> None:
    vae = copy.deepcopy(model.vae)
    vae.mouth = None  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no mouth head"):
        _mouth_truth.MouthExam.of(replace(model, vae=vae))


@pytest.fixture
def exam(model: TalkingModel, assets: Path) -> _mouth_truth.MouthExam:
    """The bundled head, examined on the bundled portrait and speech."""
    portrait = crop_portrait(open_image(assets / "portraits" / "demo.jpg"), SIDE, FaceMesh())
    faces = PackedFaces(
        images=torch.from_numpy(portrait.image.copy()).permute(2, 0, 1)[None], points=torch.from_numpy(_normal(portrait.landmarks))[None],
        shapes=torch.from_numpy(mouth_shapes()))
    sound = speech_of(8.0).samples
    rows = np.clip(np.round((log_mel(sound, AudioConfig())[:800] - FLOOR) / STEP), 0, 255).astype(np.uint8)
    weights = mouth_weights([(name, t, t + 0.15) for t in np.arange(0.1, 7.8, 0.3) for name in ("AA",)], sound, 200, 25)
    speech = SpeechDataset(
        rows=torch.from_numpy(rows), weights=torch.from_numpy(weights).half(), labels=torch.zeros(200, dtype=torch.uint8),
        starts=torch.tensor([0, 200]), voices=("demo",), trusted=torch.ones(1, dtype=torch.bool))
    assert isinstance(model.vae, TinyVAE)
    vae = copy.deepcopy(model.vae).float()
    assert vae.mouth is not None
    return _mouth_truth.MouthExam(vae=vae, head=vae.mouth, faces=faces, names=("demo",), speech=speech, cfg=model.config)


@pytest.mark.slow
def test_lips_that_never_move_are_far_from_the_truth(exam: _mouth_truth.MouthExam, tmp_path: Path) -> None:
    still = replace(exam, head=untrained_head(exam.vae).eval())
    trained, untrained = (
        {r["what"]: r["value"] for r in _mouth_truth.mouth_rows(e, tmp_path / name, people=1, frames=9)}
        for e, name in ((exam, "mouth.jpg"), (still, "still.jpg")))
    for what in ("mouth: error of the lips' gap, mean", "mouth: error inside the mouth over today's, mean"):
        assert untrained[what] > 1.3 * trained[what]
    rows, columns = (_mouth_truth.LARGER * n for n in _mouth_truth.WINDOW)
    assert Image.open(tmp_path / "mouth.jpg").size == (8 * columns, 14 + 2 * (rows + 14))
