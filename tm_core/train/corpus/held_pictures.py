"""Held-out pictures of difficult kinds, whole as they are in the wheels: nothing is trained on them.

Writes held/NAME.png (lossless, longer side at most LONGEST) and held.json: {file, identity, kinds, note}. Faces that are hard
to animate, and pictures that should be refused or warned about. Non-goals: what becomes of each (benchmarks).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from ...errors import InputError
from ...outputs import Staged, write_text
from .chosen import HELD, HeldPicture
from .download import picture
from .stills import local_pictures

log = logging.getLogger(__name__)

LONGEST = 1024


@dataclass(frozen=True, kw_only=True)
class HeldEntry:
    """A line of held.json."""

    file: str
    identity: str
    kinds: tuple[str, ...]
    note: str


def whole_picture(path: Path, at: float) -> Image.Image:
    """The picture, or the frame of an animation at `at` (0..1), as RGB; made smaller if it is longer than LONGEST."""
    with Image.open(path) as image:
        image.seek(round(at * (getattr(image, "n_frames", 1) - 1)))
        rgb: Image.Image = image.convert("RGB")
    rgb.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return rgb


def make_held(out: Path, cache: Path, held: tuple[HeldPicture, ...] = HELD) -> list[HeldEntry]:
    """All held pictures into `out`; ones that are already there are kept, ones that fail are left out, and said."""
    out.mkdir(parents=True, exist_ok=True)
    local = local_pictures()
    entries: list[HeldEntry] = []
    for one in held:
        target = out / f"{one.stem}.png"
        if not target.is_file():
            try:
                rgb = whole_picture(picture(one.name, cache, local), one.at)
            except InputError as e:
                log.warning("held: left out: %s", e)
                continue
            with Staged(target, "held") as part:
                rgb.save(part, "PNG")
        entries.append(HeldEntry(file=target.name, identity=one.identity, kinds=one.kinds, note=one.note))
    write_text(out / "held.json", json.dumps([asdict(e) for e in entries], indent=1), "held")
    log.info("held: %d pictures of %d identities", len(entries), len({e.identity for e in entries}))
    return entries
