"""A picture of who speaks when: a row for each speaker with its waveform, filled where it speaks, over an axis of seconds.

Drawn with Pillow alone, so a node can show it. Non-goals: interaction; fonts of every script (Pillow's own has Latin).

Shapes: H x W pixels, n samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .turns import Span

Colour = tuple[int, int, int]
PAPER, INK, GRID, QUIET = (255, 255, 255), (40, 44, 52), (222, 225, 230), (186, 191, 199)
COLOURS: tuple[Colour, ...] = ((31, 119, 180), (214, 96, 32), (44, 140, 60), (148, 70, 170))
GAP, AXIS, TEXT = 6, 26, 14
MOST_TICKS = 12
LEAST_WIDTH = 240


@dataclass(frozen=True, kw_only=True)
class Row:
    """A speaker: name, sound (n,) mono, and when it speaks."""

    name: str
    samples: NDArray[np.float32]
    sample_rate: int
    spans: Sequence[Span]

    @property
    def duration_s(self) -> float:
        """Duration of the sound."""
        return len(self.samples) / self.sample_rate


def draw_turns(rows: Sequence[Row], *, width: int = 1024, row_height: int = 72) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of at least one row; all rows share the longest one's axis."""
    if not rows:
        raise InputError("speakers", "none", "a schedule shows at least one", "connect a speaker")
    if width < LEAST_WIDTH or row_height < 2 * TEXT:
        raise InputError("width", f"{width}x{row_height}", f"is too small to read (at least {LEAST_WIDTH}x{2 * TEXT})", "use 1024x72")
    font = ImageFont.load_default(TEXT)
    left = min(width // 3, GAP * 2 + max(math.ceil(font.getlength(row.name)) for row in rows))
    picture = Image.new("RGB", (width, len(rows) * (row_height + GAP) + GAP + AXIS), PAPER)
    axis = _Axis(left, width - GAP, max(row.duration_s for row in rows))
    draw = ImageDraw.Draw(picture)
    _draw_axis(draw, axis, picture.height, font)
    for i, row in enumerate(rows):
        _draw_row(draw, axis, row, GAP + i * (row_height + GAP), row_height, COLOURS[i % len(COLOURS)])
        _draw_name(picture, row.name, (0, GAP + i * (row_height + GAP), left - GAP, row_height), font)
    return np.asarray(picture, np.uint8)


@dataclass(frozen=True)
class _Axis:
    """Seconds 0 ... `seconds` on columns left ... right."""

    left: int
    right: int
    seconds: float

    def x(self, t_s: float) -> int:
        return self.left + round(min(max(t_s / self.seconds, 0.0), 1.0) * (self.right - self.left))

    def ticks(self) -> list[float]:
        raw = self.seconds / MOST_TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
        return [step * i for i in range(math.floor(self.seconds / step + 1e-9) + 1)]


def _draw_axis(draw: ImageDraw.ImageDraw, axis: _Axis, height: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    floor = height - AXIS
    for t in axis.ticks():
        draw.line([(axis.x(t), GAP), (axis.x(t), floor + 4)], fill=GRID)
        label = f"{t:.6g} s"
        place = min(axis.x(t), axis.right - math.ceil(font.getlength(label) / 2))
        draw.text((place, floor + 5), label, fill=INK, font=font, anchor="ma")


def _draw_row(draw: ImageDraw.ImageDraw, axis: _Axis, row: Row, top: int, height: int, colour: Colour) -> None:
    """A band where the row speaks, and the envelope: in colour there, grey elsewhere."""
    band = tuple(round(255 - 0.2 * (255 - c)) for c in colour)
    spans = [(axis.x(start), axis.x(min(end, axis.seconds))) for start, end in row.spans]
    for low, high in spans:
        draw.rectangle([low, top, max(low, high - 1), top + height - 1], fill=band)
    middle, reach = top + (height - 1) / 2, (height - 1) / 2
    peaks = envelope(row, axis.x(row.duration_s) - axis.left)
    scale = reach / max(float(peaks.max(initial=0.0)), 1e-6)
    for i, peak in enumerate(peaks):
        x = axis.left + i
        fill = colour if any(low <= x < max(low + 1, high) for low, high in spans) else QUIET
        draw.line([(x, round(middle - peak * scale)), (x, round(middle + peak * scale))], fill=fill)


def envelope(row: Row, columns: int) -> NDArray[np.float32]:
    """Largest level (columns,) of the sound behind each column."""
    edges = np.linspace(0, len(row.samples), columns + 1).astype(int)
    levels = np.abs(row.samples)
    return np.array([levels[a : max(b, a + 1)].max(initial=0.0) for a, b in pairwise(edges)], np.float32)


def _draw_name(
    picture: Image.Image, name: str, box: tuple[int, int, int, int], font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The name, right-aligned in a box (left, top, width, height), cut off where it is too long."""
    left, top, width, height = box
    label = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(label).text((max(GAP, width - math.ceil(font.getlength(name))), height // 2), name, fill=INK, font=font, anchor="lm")
    picture.paste(label, (left, top))
