"""Contact sheets (grids of captioned frames, to be looked at by a person) and tables of documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CAPTION = 14  # pixels above a frame


def contact_sheet(frames: list[tuple[str, np.ndarray]], path: Path, columns: int = 8) -> Path:
    """Writes frames (H, W, 3) uint8 with their captions as one JPEG."""
    height, width = frames[0][1].shape[:2]
    columns = min(columns, len(frames))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(frames) / columns) * (height + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, frame) in enumerate(frames):
        x, y = i % columns * width, i // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(frame), (x, y + CAPTION))
        draw.text((x + 3, y + 1), caption, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)
    return path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def number(value: float | None, digits: int) -> str:
    """A cell: nothing where there is no value, a dash where it could not be measured."""
    return "" if value is None else "-" if math.isnan(value) else f"{value:.{digits}f}"


def row_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: Path) -> Path:
    """Writes rows of equal frames (H, W, 3) uint8, each under its own line of text, columns under their labels, as one JPEG."""
    height, width = next(f for _, frames in rows for f in frames).shape[:2]
    sheet = Image.new("RGB", (max(len(frames) for _, frames in rows) * width, CAPTION + len(rows) * (height + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, label in enumerate(columns):
        draw.text((j * width + 3, 1), label, fill="black")
    for i, (caption, frames) in enumerate(rows):
        y = CAPTION + i * (height + CAPTION)
        draw.text((3, y + 1), caption, fill="black")
        for j, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (j * width, y + CAPTION))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)
    return path
