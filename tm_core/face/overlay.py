"""A picture with its faces numbered and tinted, each in its own colour: to see whose mask is whose.

Non-goals: masks themselves (regions). No section of the paper.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .networks import Box

GOLDEN = 0.381966  # of the colour circle: neighbours in number differ most
TINT = 0.45
LABEL_SHARE, SMALLEST_LABEL = 1 / 28, 11  # of the picture's shorter side; pixels


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of face `number`, the same in every picture."""
    r, g, b = colorsys.hsv_to_rgb((0.58 + number * GOLDEN) % 1, 0.75, 1.0)
    return round(r * 255), round(g * 255), round(b * 255)


def overlay(rgb: np.ndarray, masks: np.ndarray | None = None, boxes: Sequence[Box] | None = None) -> np.ndarray:
    """(H, W, 3) uint8: masks (N, H, W) as tints, boxes as frames; numbers from 0 in the order given."""
    picture = rgb.astype(np.float32)
    for i, mask in enumerate(() if masks is None else masks):
        strength = TINT * mask[..., None]
        picture = picture * (1 - strength) + np.array(colour_of(i), np.float32) * strength
    canvas = Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
    places = list(boxes) if boxes is not None else [_extent(m) for m in (() if masks is None else masks)]
    for i, box in enumerate(places):
        _mark(canvas, i, box, framed=boxes is not None)
    return np.asarray(canvas)


def _mark(canvas: Image.Image, number: int, box: Box, framed: bool) -> None:
    draw, colour = ImageDraw.Draw(canvas), colour_of(number)
    size = max(SMALLEST_LABEL, round(min(canvas.size) * LABEL_SHARE))
    if framed:
        draw.rectangle(box, outline=colour, width=max(1, size // 8))
    font, text = ImageFont.load_default(size), str(number)
    wide, high = size * (0.4 + 0.6 * len(text)), size * 1.25
    left = min(max(0.0, box[0]), canvas.width - wide)
    top = min(max(0.0, box[1] - (high if framed else 0)), canvas.height - high)
    draw.rectangle((left, top, left + wide, top + high), fill=colour)
    draw.text((left + wide / 2, top + high / 2), text, fill=(0, 0, 0), font=font, anchor="mm")


def _extent(mask: np.ndarray) -> Box:
    y, x = np.nonzero(mask > 0.5)
    if not len(x):
        return 0.0, 0.0, 0.0, 0.0
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())
