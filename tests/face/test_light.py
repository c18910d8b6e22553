"""A face in unusual light is shown to the model in usual light: by one colour, only where it has to be, and lips then move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tm_core import talk
from tm_core.config import tiny
from tm_core.face.light import MOST, PLAIN, USUAL, light_for_model
from tm_core.face.mask import face_mask
from tm_core.media.audio_io import read_audio
from tm_core.media.image_io import open_image
from tm_core.vae.mouth_drawing import MouthFields
from tm_core.vae.mouth_head import MouthHead
from tm_core.weights.loading import load_model

NIGHT = (0.16, 0.3, 0.55)  # a blue lamp


@pytest.fixture(scope="module")
def portrait(assets: Path) -> talk.Portrait:
    return talk.prepare_portrait(open_image(assets / "portraits" / "demo.jpg"), tiny())


def by_night(portrait: talk.Portrait) -> talk.Portrait:
    dark = (portrait.crop.image * np.array(NIGHT)).round().astype(np.uint8)
    return replace(portrait, crop=replace(portrait.crop, image=dark), light=light_for_model(dark, portrait.crop.landmarks))


def test_a_face_in_usual_light_stays_as_it_is_to_the_bit(portrait: talk.Portrait) -> None:
    assert portrait.light == PLAIN
    assert np.array_equal((portrait.image * 255).round().byte().permute(1, 2, 0).numpy(), portrait.crop.image)


def test_a_face_by_night_is_lit_until_it_is_usual_and_no_further(portrait: talk.Portrait) -> None:
    dark = by_night(portrait)
    seen = (dark.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    colour = seen[face_mask(portrait.crop.landmarks, 128, 0.0) > 0.5].mean(0) / 255
    assert USUAL[0][0] - 0.01 < colour.mean() < USUAL[0][0] + 0.01, "as bright as the darkest that is usual"
    shares = colour / colour.mean()
    assert (shares > np.array(USUAL[0][1:]) - 0.05).all() and (shares < np.array(USUAL[1][1:]) + 0.05).all()
    assert dark.light[0] > dark.light[1] > dark.light[2] > 1


def test_nothing_is_made_of_black_and_of_a_face_that_is_not_there(portrait: talk.Portrait) -> None:
    black = light_for_model(np.zeros_like(portrait.crop.image), portrait.crop.landmarks)
    assert max(black) <= MOST
    assert light_for_model(portrait.crop.image, portrait.crop.landmarks + 1000) == PLAIN


def test_a_view_says_in_which_light_the_model_saw_it(portrait: talk.Portrait) -> None:
    from tm_core.talk.framing import framed, view_of

    dark = by_night(portrait)
    assert framed(view_of(dark), "face", 256).light == dark.light != PLAIN == view_of(portrait).light


@pytest.mark.slow
def test_lips_that_hardly_move_by_night_move_as_by_day(portrait: talk.Portrait, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model()
    voice = read_audio(next((assets / "speech").glob("*.wav")))
    said = talk.select_speaking(talk.encode_audio(replace(voice, samples=voice.samples[: 3 * voice.sample_rate]), model.config))
    fields = MouthHead.fields
    gaps: list[np.ndarray] = []

    def recorded(*args: object) -> MouthFields:
        made = fields(*args)  # type: ignore[arg-type]
        gaps.append((made.lips[:, 1] - made.lips[:, 0])[:, 12:20].mean(1).numpy())
        return made

    monkeypatch.setattr(MouthHead, "fields", recorded)

    def range_of(who: talk.Portrait) -> float:
        gaps.clear()
        picture = who.picture if who is portrait else (who.picture * np.array(NIGHT)).round().astype(np.uint8)
        scene = talk.build_scene(model, replace(who, picture=picture), said)
        for _ in talk.decode_stream(talk.sample_stream(model, scene), framing="face", size=128):
            pass
        return float(np.ptp(np.percentile(np.concatenate(gaps), [5, 95])))

    dark = by_night(portrait)
    day, night, lit = (range_of(who) for who in (portrait, replace(dark, light=PLAIN), dark))
    assert lit > 1.3 * night and lit > 0.7 * day
