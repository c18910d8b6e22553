"""Stills and a short loop of a video, for README and for looking at without a player: NAME.webp and NAME.jpg beside it.

Usage: python scripts/demo_pictures.py VIDEO [FOLDER]. The loop is at most 3 s and 600 KB; the sheet has eight frames. Prints
nothing, because `make demo` ends with one line of JSON.
"""

from __future__ import annotations

import io
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

LOOP_S, SHEET, MAX_BYTES = 3.0, 8, 600_000
QUALITIES = (85, 65, 50, 35, 20)


def loop(frames: list[Image.Image], fps: float) -> bytes:
    """An animated WebP of frames at `fps`, as good as fits into MAX_BYTES."""
    chosen = frames[: round(LOOP_S * fps)]
    for quality in QUALITIES:
        out = io.BytesIO()
        chosen[0].save(
            out, "WEBP", save_all=True, append_images=chosen[1:], duration=round(1000 / fps), loop=0, quality=quality, method=4)
        if out.tell() <= MAX_BYTES:
            break
    return out.getvalue()


def sheet(frames: list[Image.Image]) -> Image.Image:
    """Eight frames side by side in two rows, evenly spread."""
    at = np.linspace(0, len(frames) - 1, SHEET).round().astype(int)
    width, height = frames[0].size
    out = Image.new("RGB", (width * SHEET // 2, height * 2))
    for i, index in enumerate(at):
        out.paste(frames[index], (i % (SHEET // 2) * width, i // (SHEET // 2) * height))
    return out


def write_pictures(video: Path, folder: Path) -> tuple[Path, Path]:
    """Both files, from the first seconds of a video; their paths."""
    from tm_core.media import read_frames

    rate, read = read_frames(video)
    fps = float(rate)
    frames = [Image.fromarray(f) for f in islice(read, round(2 * LOOP_S * fps))]
    folder.mkdir(parents=True, exist_ok=True)
    animation, still = folder / f"{video.stem}.webp", folder / f"{video.stem}.jpg"
    animation.write_bytes(loop(frames, fps))
    sheet(frames).save(still, quality=90)
    return animation, still


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    source = Path(sys.argv[1])
    write_pictures(source, Path(sys.argv[2]) if len(sys.argv) > 2 else source.parent)
