"""Any still picture as RGB: grey, alpha, palette, 16 bit, rotated by EXIF, animated (its first frame), huge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ..inputs import check_file

LONGEST = 2048  # pixels; larger pictures are shrunk while they are loaded
MOST_PIXELS = 400_000_000
REMEDY = "give a picture such as png, jpg or webp"
BACKDROP = (255, 255, 255)  # behind what is transparent


def open_image(path: Path) -> NDArray[np.uint8]:
    """RGB (H, W, 3) uint8, the longer side at most 2048; InputError for what is no picture."""
    path = Path(path)
    check_file("image", path, REMEDY)
    try:
        with Image.open(path) as picture:
            return _pixels(path, picture)
    except UnidentifiedImageError as error:
        raise InputError("image", path, "is not a picture this machine can read", REMEDY) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("image", path, f"cannot be read ({error})", REMEDY) from error


def _pixels(path: Path, picture: Image.Image) -> NDArray[np.uint8]:
    if picture.width * picture.height > MOST_PIXELS:
        raise InputError("image", path, f"{picture.width}x{picture.height} is more than {MOST_PIXELS // 10**6} megapixels", "shrink it")
    picture.draft("RGB", (LONGEST, LONGEST))  # lets a jpeg decode at a fraction of its size
    picture.seek(0)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("1", "P", "PA"):  # a palette has no colours between two of its entries
        picture = _rgb(picture)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(_rgb(picture))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16 bit and float greys do not convert by scale
        levels = np.asarray(picture, np.float32)
        top = max(float(levels.max()), 1.0)
        return Image.fromarray((levels / (65535 if top > 255 else 255) * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, (*BACKDROP, 255))
        return Image.alpha_composite(backdrop, picture).convert("RGB")
    return picture.convert("RGB")
