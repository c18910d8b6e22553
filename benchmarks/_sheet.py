"""Contact sheets: a grid of frames, each with its time, to be looked at by a person."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def contact_sheet(frames: list[tuple[str, np.ndarray]], path: Path, columns: int = 8) -> Path:
    """Writes frames (H, W, 3) uint8 with their captions as one JPEG."""
    height, width = frames[0][1].shape[:2]
    columns = min(columns, len(frames))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(frames) / columns) * (height + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, frame) in enumerate(frames):
        x, y = i % columns * width, i // columns * (height + 14)
        sheet.paste(Image.fromarray(frame), (x, y + 14))
        draw.text((x + 3, y + 1), caption, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)
    return path
