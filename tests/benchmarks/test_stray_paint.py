"""`bench looks --part paint`: paint is told from a warped picture, and paint off the lips from paint between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import _stray_paint
from benchmarks._common import speech_of
from benchmarks._corpus import Sound
from benchmarks._truth import look_at
from benchmarks.looks import smiley
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.vae.mouth_drawing import MouthFields
from tm_core.vae.mouth_head import MouthHead

SAID = Sound(name="demo", real=True, samples=speech_of(1.4).samples, phones=[])


def test_paint_off_the_lips_is_counted_and_paint_near_them_is_not(assets: Path) -> None:
    picture = np.asarray(Image.fromarray(open_image(assets / "portraits" / "demo.jpg")).resize((256, 256)))
    points = np.repeat(look_at(picture[None]).landmarks, 5, 0)
    painted = np.zeros((5, 256, 256), bool)
    tall = float(points[0, 152, 1] - points[0, 10, 1])

    def at(frame: int, landmark: int, down: float) -> None:
        x, y = points[0, landmark, :2]
        painted[frame, round(float(y + down * tall)) : round(float(y + down * tall)) + 2, round(float(x)) : round(float(x)) + 2] = True

    at(1, 13, 0.01)  # between the lips
    at(2, 17, 0.015)  # just below the lower lip's edge
    at(3, 17, 0.06)  # on the chin
    at(4, 13, 0.01)
    points[4] = np.nan
    counts, unseen = _stray_paint.off_lips(painted, points)
    assert counts.tolist() == [0, 0, 0, 4, 0] and unseen == 1


def test_rows_name_the_pictures_that_have_some() -> None:
    verdict = _stray_paint.PaintVerdict
    rows = {r["what"]: r for r in _stray_paint.verdict_rows([
        verdict(name="a", outcome="drawn", painted=9), verdict(name="b", outcome="drawn", painted=9, stray=2, worst=4),
        verdict(name="c", outcome="refused"), verdict(name="d", outcome="drawn", painted=9, unseen=1)])}
    assert [rows[f"stray paint, {name}"]["ok"] for name in "abcd"] == [True, False, None, False]
    assert rows["held-out pictures with stray paint"]["value"] == 2 and "frame 4" in rows["stray paint, b"]["unit"]


@pytest.mark.slow
def test_the_bundled_portrait_has_none_and_contours_on_the_chin_have(
    model: TalkingModel, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = open_image(assets / "portraits" / "demo.jpg")
    found = _stray_paint.paint_verdict(model, "demo", picture, SAID)
    assert found.outcome == "drawn" and found.stray == found.unseen == 0 and found.painted > 500
    fields = MouthHead.fields

    def lowered(*args: object) -> MouthFields:
        made = fields(*args)  # type: ignore[arg-type]
        return made._replace(lips=made.lips + made.lips.new_tensor([0.3, 0.5]).view(1, 2, 1))

    monkeypatch.setattr(MouthHead, "fields", lowered)
    assert _stray_paint.paint_verdict(model, "demo", picture, SAID).stray > 500
    assert _stray_paint.paint_verdict(model, "smiley", smiley(), SAID).outcome == "refused"
