"""Any still picture as RGB, and masks: grey, alpha, palette, 16 bit, float, CMYK, LAB, turned by EXIF, animated (its first frame).

A picture keeps all its pixels, and is converted a strip at a time, so that even the largest one stays below 2 GB of memory.
Non-goals: colour profiles (all is taken for sRGB), the further pages of a file, raw files of cameras.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from ..inputs import check_file

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

MOST_PIXELS = 80_000_000  # decoders need up to 12 bytes a pixel, and the pixels 3 more: 1.2 GB
MOST_OF_MASK = 16_000_000  # a mask holds no detail; as floats it is four times its pixels
STRIP = 1 << 20  # pixels that are converted at a time
REMEDY = "give a picture such as png, jpg or webp"
UNREAD, AS_JPEG = "is a {} file, which this machine cannot read", "save it as jpg or png and give that"
TOO_LARGE = f"has more than {MOST_PIXELS // 10**6} megapixels", "shrink it to that or less"
BACKDROP = (255, 255, 255)  # behind what is transparent
# levels that 99.5 % of what is not black stay below, and what white is then; floats may go beyond white
WHITES = ((16.0, 1.0), (256.0, 255.0), (65536.0, 65535.0), (np.inf, 2.0**32 - 1))
# by EXIF's orientation: whether rows and columns change places, and the steps through both after that
TURNS = {2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1), 5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1)}
ORIENTATION, SUBFILE = 0x0112, 254  # tags
# (where, bytes, name) of what Pillow does not read on every machine
SIGNATURES = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
    (4, b"ftypavi", "AVIF"), (4, b"ftypcrx ", "camera raw"), (0, b"FUJIFILMCCD-RAW", "camera raw"), (0, b"IIRO", "camera raw"),
    (0, b"IIU\0", "camera raw"), (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL \r\n\x87\n", "JPEG XL"),
)

# what Pillow's decoders raise for files that are cut short or have bytes changed
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, LookupError, TypeError, EOFError, struct.error)

Pixels = NDArray[np.uint8]


def open_image(path: Path) -> Pixels:
    """RGB (H, W, 3) uint8, all pixels of the file, turned as EXIF says; InputError for what is no picture, or too large."""
    with _opened("image", Path(path)) as picture:
        return _read(picture, _rgb)


def open_mask(path: Path) -> NDArray[np.float32]:
    """A mask (H, W) in 0..1, 1 is marked, from a picture that is painted; InputError for what is no picture.

    Without transparent parts, white marks. On a transparent layer what is painted marks, in whatever colour: the brightest
    paint counts as white. In an opaque picture with transparent holes, as ComfyUI's mask editor saves it, the holes mark.
    """
    with _opened("mask", Path(path)) as picture:
        layer = _read(picture, _rgba, MOST_OF_MASK).astype(np.float32) / 255
    light, alpha = layer[..., :3].mean(2), layer[..., 3]
    if alpha.min() >= 0.5:
        return np.asarray(light * alpha, np.float32)
    frame = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    if frame.mean() > 0.5:
        return np.asarray(1 - alpha, np.float32)
    brightest = float((light * alpha).max())
    return np.asarray(alpha if brightest < 1 / 16 else np.minimum(light / brightest, 1) * alpha, np.float32)


@contextmanager
def _opened(field: str, path: Path) -> Iterator[Image.Image]:
    """A picture, and its errors in words a user can act on."""
    check_file(field, path, REMEDY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _fitted has its own limit
            picture = Image.open(path)
            picture.seek(0)
        with picture:
            _check_raw(picture)
            yield _fitted(picture, path)
    except InputError as error:  # of the picture, which does not know its name
        raise InputError(field, path, error.rule, error.remedy) from error
    except UnidentifiedImageError as error:
        raise InputError(field, path, *_unread(path)) from error
    except Image.DecompressionBombError as error:
        raise InputError(field, path, *TOO_LARGE) from error
    except MemoryError as error:  # a damaged header may claim any size
        raise InputError(field, path, "asks for more memory than there is", REMEDY) from error
    except DAMAGED as error:
        raise InputError(field, path, f"cannot be read ({getattr(error, 'strerror', None) or error})", REMEDY) from error


def _unread(path: Path) -> tuple[str, str]:
    """Rule and remedy for a file that Pillow does not know."""
    with open(path, "rb") as file:
        head = file.read(64)
    for at, signature, name in SIGNATURES:
        if head[at:].startswith(signature):
            return UNREAD.format(name), AS_JPEG
    return "is not a picture this machine can read", REMEDY


def _check_raw(picture: Image.Image) -> None:
    """InputError for a camera's raw file in TIFF's clothes, of which Pillow reads the thumbnail."""
    if picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(SUBFILE) == 1:
        raise InputError("image", "", UNREAD.format("camera raw"), AS_JPEG)


def _fitted(picture: Image.Image, path: Path) -> Image.Image:
    """The picture, a jpeg that is too large at a fraction of its size; InputError for others that are too large."""
    full = picture.size
    if full[0] * full[1] > MOST_PIXELS and "progressive" not in picture.info:  # those are held whole to be decoded
        picture.draft(picture.mode, (full[0] // 2, full[1] // 2))
        if picture.size != full:
            log.warning("%s: %d x %d pixels are read as %d x %d: no more than %d megapixels are kept",
                        path.name, *full, *picture.size, MOST_PIXELS // 10**6)
    if picture.width * picture.height > MOST_PIXELS:
        raise InputError("image", "", *TOO_LARGE)
    return picture


def _read(picture: Image.Image, convert: Callable[[Image.Image, float], Image.Image], most: int = MOST_PIXELS) -> Pixels:
    """(H, W, C) uint8 of a picture, reduced by a whole number to `most` pixels, a strip at a time, turned as EXIF says."""
    width, height = picture.size
    white = _white(picture)
    factor = int(np.ceil(np.sqrt(width * height / most)))
    rows = -(-max(1, STRIP // width) // factor) * factor
    parts = (convert(picture.crop((0, top, width, min(top + rows, height))), white) for top in range(0, height, rows))
    out: Pixels | None = None
    for i, part in enumerate(parts):
        strip = np.asarray(part if factor == 1 else part.reduce(factor))
        out = np.empty((-(-height // factor), *strip.shape[1:]), np.uint8) if out is None else out
        out[i * rows // factor : i * rows // factor + len(strip)] = strip
    assert out is not None
    return _turned(out, picture.getexif().get(ORIENTATION, 1))


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    swapped, down, across = TURNS.get(orientation, (False, 1, 1))
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(pixels[::down, ::across])


def _white(picture: Image.Image) -> float:
    """The level of white of a picture of floats or of more than 8 bits; of others nobody asks."""
    if not picture.mode.startswith(("I", "F")):
        return 255.0
    sample = np.asarray(picture.resize((min(picture.width, 1024), min(picture.height, 1024)), Image.Resampling.NEAREST), np.float64)
    lit = sample[np.isfinite(sample) & (sample > 0)]
    high = float(np.percentile(lit, 99.5)) if lit.size else 0.0
    return next(white for top, white in WHITES[picture.mode[0] == "I" :] if high < top)


def _rgb(part: Image.Image, white: float) -> Image.Image:
    """RGB, white behind what is transparent."""
    part = _plain(part, white)
    if part.mode != "RGBA":
        return part
    return Image.alpha_composite(Image.new("RGBA", part.size, (*BACKDROP, 255)), part).convert("RGB")


def _rgba(part: Image.Image, white: float) -> Image.Image:
    return _plain(part, white).convert("RGBA")


def _plain(part: Image.Image, white: float) -> Image.Image:
    """RGB, or RGBA of what may be transparent."""
    if part.mode.startswith(("I", "F")):
        levels = np.nan_to_num(np.asarray(part, np.float32), nan=0.0, posinf=white, neginf=0.0)
        return Image.fromarray(np.rint(levels * (255 / white)).clip(0, 255).astype(np.uint8)).convert("RGB")
    return part.convert("RGBA" if part.mode in ("RGBA", "LA", "PA") or "transparency" in part.info else "RGB")
