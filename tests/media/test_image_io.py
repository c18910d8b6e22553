"""Pictures of every kind become RGB; what is no picture says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from tm_core.errors import InputError
from tm_core.media import image_io, open_image, open_mask

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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_at_its_full_size(tmp_path: Path, orientation: int) -> None:
    exif, shapes = Image.Exif(), np.zeros((1500, 2400, 3), np.uint8)
    shapes[:700, :900], shapes[1000:, :300] = (255, 0, 0), (0, 0, 255)
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(shapes), exif=exif)
    with Image.open(path) as picture:
        assert np.array_equal(open_image(path), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("size", [(10_000, 300), (3001, 2001), (1, 1)], ids=["wide", "odd", "one pixel"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_picture_keeps_all_its_pixels(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    rgb = open_image(save(tmp_path / name, Image.new("RGB", size, (10, 200, 30))))
    assert rgb.shape == (size[1], size[0], 3) and (np.abs(rgb.astype(int) - (10, 200, 30)) < 6).all()


def test_a_jpeg_too_large_for_memory_is_read_at_half_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit is lowered for the test: a picture above the real one takes seconds to write."""
    monkeypatch.setattr(image_io, "MOST_PIXELS", 1_000_000)
    assert open_image(save(tmp_path / "a.jpg", Image.new("RGB", (1800, 1200)))).shape == (600, 900, 3)
    assert "a.jpg: 1800 x 1200 pixels are read as 900 x 600" in caplog.text
    for name, options in (("a.png", {}), ("b.jpg", {"progressive": True})):
        path = save(tmp_path / name, Image.new("L", (1800, 1200)), **options)
        with pytest.raises(InputError, match=r"^image: .*: has more than 80 megapixels; shrink it"):
            open_image(path)


RAMP_01 = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (64, 1))


@pytest.mark.parametrize(
    "levels",
    [RAMP_01, np.where(np.indices((64, 256))[1] > 254, np.float32(3.5), RAMP_01), RAMP_01 * 255, RAMP_01 * 65535,
     RAMP.astype(np.int32), RAMP.astype(np.int32) * 257, RAMP.astype(np.uint16) * 257],
    ids=["float to 1", "float with highlights", "float to 255", "float to 65535", "int to 255", "int to 65535", "16 bit"])
def test_any_scale_of_levels_is_a_ramp_from_black_to_white(tmp_path: Path, levels: np.ndarray) -> None:
    rgb = open_image(save(tmp_path / "a.tif", Image.fromarray(levels)))
    assert np.abs(rgb.astype(int).mean((0, 2)) - np.arange(256)).max() <= 1


def test_levels_that_are_no_numbers_or_below_black_are_black(tmp_path: Path) -> None:
    levels = RAMP_01.copy()
    levels[0, :4] = np.nan, -np.inf, -7, np.inf
    rgb = open_image(save(tmp_path / "a.tif", Image.fromarray(levels)))
    assert rgb[0, :4, 0].tolist() == [0, 0, 0, 255] and abs(int(rgb[9, 128, 0]) - 128) <= 1


def colours() -> Image.Image:
    """Red, green, blue and grey squares of 32 pixels."""
    squares = np.array([[(200, 40, 30), (40, 160, 60)], [(40, 60, 180), (128, 128, 128)]], np.uint8)
    return Image.fromarray(squares.repeat(32, 0).repeat(32, 1))


def lab() -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    made = ImageCms.applyTransform(colours(), to_lab)
    assert made is not None
    return made


KINDS: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "cmyk": ("a.tif", colours().convert("CMYK"), {}),
    "lab": ("a.tif", lab(), {}),
    "palette": ("a.png", colours().convert("P", palette=Image.Palette.ADAPTIVE), {}),
    "pages": ("a.tif", colours(), {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    "animated gif": ("a.gif", colours(), {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]}),
    "avif": ("a.avif", colours(), {"quality": 90}),  # from Pillow 11.3 on
}


@pytest.mark.parametrize("kind", [k for k, (name, *_) in KINDS.items() if Path(name).suffix in Image.registered_extensions()])
def test_colours_are_what_they_were(tmp_path: Path, kind: str) -> None:
    name, picture, options = KINDS[kind]
    rgb = open_image(save(tmp_path / name, picture, **options)).astype(int)
    assert rgb.shape == (64, 64, 3) and np.abs(rgb[16::32, 16::32] - np.asarray(colours())[16::32, 16::32]).max() <= 6


def test_one_bit_and_a_transparent_palette(tmp_path: Path) -> None:
    bits = Image.fromarray(RAMP > 127)
    assert np.unique(open_image(save(tmp_path / "a.png", bits))).tolist() == [0, 255]
    palette = colours().convert("P", palette=Image.Palette.ADAPTIVE)
    rgb = open_image(save(tmp_path / "b.png", palette, transparency=palette.getpixel((0, 0))))
    assert rgb[16, 16].tolist() == [255, 255, 255] and rgb[16, 48, 1] > rgb[16, 48, 0]


def layer(paint: tuple[int, int, int], shown: np.ndarray) -> Image.Image:
    """A layer of one colour, opaque where `shown` (H, W) is 1."""
    rgb = np.broadcast_to(np.array(paint, np.uint8), (*shown.shape, 3))
    return Image.fromarray(np.dstack([rgb, (shown * 255).astype(np.uint8)]))


SPOT = np.pad(np.ones((8, 8)), [(10, 22), (16, 16)])
PHOTO = np.asarray(Image.fromarray(RAMP).resize((40, 40)).convert("RGB"))


@pytest.mark.parametrize(
    "picture",
    [Image.fromarray((SPOT * 255).astype(np.uint8)), Image.fromarray((SPOT * 65535).astype(np.uint16)),
     Image.fromarray(SPOT.astype(np.float32)),
     layer((255, 255, 255), SPOT), layer((0, 0, 0), SPOT), layer((200, 30, 60), SPOT), layer((0, 0, 0), 1 - SPOT),
     Image.fromarray(np.dstack([PHOTO, ((1 - SPOT) * 255).astype(np.uint8)])),
     Image.fromarray(np.dstack([np.repeat((SPOT * 255)[..., None], 3, 2), np.full((40, 40), 255)]).astype(np.uint8))],
    ids=["white on black", "16 bit", "float", "white on transparent", "black on transparent", "red on transparent", "ComfyUI's mask editor",
         "a photograph with a hole", "opaque alpha"])
def test_a_mask_marks_what_was_painted(tmp_path: Path, picture: Image.Image) -> None:
    mask = open_mask(save(tmp_path / "mask.tif", picture))
    assert mask.dtype == np.float32 and np.abs(mask - SPOT).max() < 0.01


def test_a_soft_brush_and_black_over_white_keep_their_degrees(tmp_path: Path) -> None:
    brush = layer((255, 255, 255), SPOT * 0.4)
    assert open_mask(save(tmp_path / "a.png", brush)).max() == pytest.approx(0.4, abs=0.01)
    both = np.asarray(layer((255, 255, 255), SPOT)).copy()
    both[10:14, 16:24, :3] = 0
    assert open_mask(save(tmp_path / "b.png", Image.fromarray(both))).sum() == pytest.approx(32, abs=0.1)


def test_a_mask_that_is_no_picture_is_called_a_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"^mask: .*a\.png: is not a picture"):
        open_mask(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x18ftypmif1", "HEIC"), (b"\xff\x0a\x00\x10", "JPEG XL"),
     (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\0\0\0\x18ftypcrx ", "camera raw"), (b"FUJIFILMCCD-RAW 0201", "camera raw")])
def test_what_pillow_lacks_is_known_by_content_and_has_a_remedy(tmp_path: Path, head: bytes, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(head + bytes(200))
    with pytest.raises(InputError, match=f"^image: [^:]*: is a {name} file, which this machine cannot read; save it as jpg or png"):
        open_image(tmp_path / "a.jpg")


def test_a_raw_file_in_tiffs_clothes_is_not_its_thumbnail(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    path = save(tmp_path / "a.dng", Image.new("RGB", (160, 120)), format="TIFF", tiffinfo=tags)
    with pytest.raises(InputError, match=r"^image: [^:]*a\.dng: is a camera raw file"):
        open_image(path)


def sentence(path: Path) -> str:
    """What is wrong with a picture, nothing if it opens."""
    try:
        return "" if open_image(path).ndim == 3 else "no picture"
    except InputError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of tags that are cut
@pytest.mark.parametrize(
    "name", [n for n in ("a.jpg", "a.png", "a.tif", "a.gif", "a.webp", "a.bmp", "a.avif", "a.jp2", "a.dds")
             if Path(n).suffix in Image.registered_extensions()])
def test_damaged_bytes_give_a_picture_or_one_sentence(tmp_path: Path, name: str) -> None:
    """60 files each, cut or with some bytes of the header changed: whatever a decoder raises, it is one InputError."""
    rng = np.random.default_rng(3)
    whole = save(tmp_path / name, Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))).read_bytes()
    for _ in range(60):
        data = bytearray(whole[: rng.integers(1, len(whole)) if rng.random() < 0.3 else None])
        for at in rng.integers(0, min(len(data), 200), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        said = sentence(tmp_path / name)
        assert not said or (said.startswith("image: ") and said.count("; ") == 1 and "\n" not in said)


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
