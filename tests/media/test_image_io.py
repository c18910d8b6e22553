"""Pictures of every kind become RGB; what is no picture says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core.errors import InputError
from tm_core.media import open_image

RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("name", "picture"),
    [("grey.png", Image.fromarray(RAMP)), ("rgb.jpg", Image.fromarray(RAMP).convert("RGB")),
     ("16bit.png", Image.fromarray(RAMP.astype(np.uint16) * 257)), ("palette.gif", Image.fromarray(RAMP).convert("P")),
     ("cmyk.jpg", Image.fromarray(RAMP).convert("RGB").convert("CMYK")), ("rgb.webp", Image.fromarray(RAMP).convert("RGB")),
     ("b\u00f6 se.png", Image.fromarray(RAMP))],
    ids=["grey", "jpg", "16 bit", "palette", "cmyk", "webp", "spaces and letters"],
)
def test_a_grey_ramp_stays_one(tmp_path: Path, name: str, picture: Image.Image) -> None:
    rgb = open_image(save(tmp_path / name, picture))
    assert rgb.shape == (64, 256, 3) and rgb.dtype == np.uint8
    assert np.abs(rgb.mean((0, 2)) - np.arange(256)).max() < 14


def test_transparent_is_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    rgb = open_image(save(tmp_path / "a.png", picture))
    assert rgb[0, 0].tolist() == [255, 0, 0] and rgb[4, 4].tolist() == [255, 255, 255]


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(save(tmp_path / "a.jpg", Image.new("RGB", (40, 20)), exif=exif)).shape[:2] == (40, 20)


@pytest.mark.parametrize("name", ["huge.jpg", "huge.png"])
def test_ten_thousand_pixels_are_shrunk(tmp_path: Path, name: str) -> None:
    picture = Image.new("RGB", (10_000, 5_000), (10, 200, 30))
    rgb = open_image(save(tmp_path / name, picture))
    assert max(rgb.shape[:2]) == 2048 and abs(int(rgb[5, 5, 1]) - 200) < 6


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / "a.webp")[8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut short"])
def test_what_is_no_picture_says_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no picture " * 50)
    elif kind == "cut short":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        path.write_bytes(save(tmp_path / "whole.png", Image.fromarray(noise)).read_bytes()[:3000])
    with pytest.raises(InputError, match=r"^image: ") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
