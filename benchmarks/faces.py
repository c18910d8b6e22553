"""Many faces: parity with the networks' own runtimes, recall, order, false faces, and numbers kept in a crossing.

Group pictures are composed of the ranked portraits (`_groups.py`) at 32 to 256 pixels, 2 to 12 faces, upright,
tilted up to 40 degrees and turned by quarters (and 120 degrees); faces count as found within 0.35 of their size.
`--out` keeps the pictures with what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks._common import Result, result, say
from benchmarks._groups import SIZES, Group, Placed, clouds, cutouts, faceless, groups, place
from parity.golden import recorded
from parity.recorders.faces import masked_views, views
from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import Face
from tm_core.face.overlay import overlay
from tm_core.face.search import FaceFinder, middle
from tm_core.face.segment import PersonSegmenter
from tm_core.face.track import FaceTracker, TrackedFace

AWAY, SMALLER, LARGER = 0.35, 0.6, 1.6  # of a face's size: what still counts as that face
LARGE = 64
MAX_PIXELS, MAX_MASK, MIN_RECALL, MIN_RECALL_LARGE = 1.0, 0.01, 0.9, 1.0
FRAMES, WIDTH, HEIGHT, CROSSING = 60, 480, 200, 80


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One group picture: faces in it, found, found too much, and whether the order is right."""

    size: int
    there: int
    found: int
    extra: int
    ordered: bool


def run(*, out: Path | None = None) -> list[Result]:
    """All of it; InputError without the shared portraits."""
    mesh = FaceMesh()
    finder = FaceFinder(mesh=mesh)
    counted = [_counted(g, finder, out) for g in groups()]
    alone = [(name, finder(rgb)) for name, rgb in faceless()]
    for name, faces in alone:
        say(f"{name}: {len(faces)} faces")
    return [*_parity(mesh), *_recall(counted), *_false(counted, alone), *_crossing(mesh)]


def _parity(mesh: FaceMesh) -> list[Result]:
    """Differences from what the original runtimes gave for the bundled portrait in five views."""
    golden, _ = recorded("faces")
    points = [np.linalg.norm(mesh(rgb)[:, :2] - golden[f"{n}.landmarks"].numpy()[:, :2], axis=1) for n, rgb in views()]
    boxes = [np.abs(np.array(mesh.detect(rgb)[0].box) - golden[f"{n}.box"].numpy()) for n, rgb in views()]
    net = PersonSegmenter()
    masks = [np.abs(net.network_mask(_batch(rgb))[0] - golden[f"{n}.mask"].float().numpy()) for n, rgb in masked_views()]
    at, box, mask = float(np.median(points)), float(np.median(boxes)), float(np.mean(masks))
    return [
        result("landmarks against litert, median", at, "px", f"<= {MAX_PIXELS}", at <= MAX_PIXELS),
        result("landmarks against litert, largest", float(np.max(points)), "px"),
        result("detector's boxes against litert, median", box, "px", f"<= {MAX_PIXELS}", box <= MAX_PIXELS),
        result("person mask against mediapipe, mean", mask, "of 1", f"<= {MAX_MASK}", mask <= MAX_MASK),
        result("person mask against mediapipe, largest", float(np.max(masks)), "of 1"),
    ]


def _batch(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()


def is_at(face: Face, placed: Placed) -> bool:
    """The face found is the one put there."""
    away = float(np.linalg.norm(np.array(middle(face)) - placed.centre))
    return away < AWAY * placed.extent and SMALLER < face.extent / placed.extent < LARGER


def count(group: Group, faces: Sequence[Face]) -> Counted:
    """Which faces of a group were found, and whether those follow each other as they should."""
    whose = [next((i for i, p in enumerate(group.faces) if is_at(f, p)), None) for f in faces]
    known = [i for i in whose if i is not None]
    return Counted(
        size=group.size, there=len(group.faces), found=len(set(known)), extra=len(whose) - len(set(known)), ordered=known == sorted(known))


def _counted(group: Group, finder: FaceFinder, out: Path | None) -> Counted:
    faces = finder(group.image)
    counted = count(group, faces)
    say(f"{group.name}: {counted.found} of {counted.there}, {counted.extra} too many, {'in order' if counted.ordered else 'out of order'}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(overlay(group.image, boxes=[f.box for f in faces])).save(out / f"{group.name.replace(' ', '_')}.png")
    return counted


def _recall(counted: list[Counted]) -> list[Result]:
    rows = []
    for size in SIZES:
        here = [c for c in counted if c.size == size]
        there, share = sum(c.there for c in here), sum(c.found for c in here) / sum(c.there for c in here)
        bar = MIN_RECALL_LARGE if size >= LARGE else MIN_RECALL
        rows.append(result(f"recall at {size} px ({there} faces)", share, "share", f">= {bar}", share >= bar))
    ordered = sum(c.ordered for c in counted)
    faces = f"{sum(c.there for c in counted)} faces, {min(c.there for c in counted)} to {max(c.there for c in counted)} a picture"
    return [*rows, result(f"pictures in order ({faces})", ordered, f"of {len(counted)}", f"== {len(counted)}", ordered == len(counted))]


def _false(counted: list[Counted], alone: list[tuple[str, list[Face]]]) -> list[Result]:
    extra, false = sum(c.extra for c in counted), sum(len(faces) for _, faces in alone)
    return [
        result("faces too many in the group pictures", extra, "", "== 0", extra == 0),
        result(f"faces in {len(alone)} pictures without one", false, "", "== 0", false == 0),
    ]


def crossing() -> list[tuple[np.ndarray, list[Placed | None]]]:
    """Frames and true faces: two people walk past each other (the second in front), a third comes and leaves above the way."""
    people = cutouts()
    sky = clouds(WIDTH, HEIGHT, np.random.default_rng(5))
    frames = []
    for t in range(FRAMES):
        canvas, share = Image.fromarray(sky), t / (FRAMES - 1)
        ways = [(80 + share * (WIDTH - 160), 115.0), (WIDTH - 80 - share * (WIDTH - 160), 115.0)]
        behind, front = (place(canvas, people[i], ways[i], CROSSING, 0.0) for i in range(2))
        hidden = abs(behind.centre[0] - front.centre[0]) < 1.2 * CROSSING
        guest = place(canvas, people[3], (WIDTH / 2, 40.0), 40, 0.0) if 8 <= t < 22 or t >= 48 else None
        frames.append((np.asarray(canvas), [None if hidden else behind, front, guest]))
    return frames


def switches(seen: list[list[TrackedFace]], true: list[list[Placed | None]]) -> tuple[int, int, int]:
    """How often a true face's number changed, how often a visible face was not seen, and how many numbers were given."""
    last: dict[int, int] = {}
    changed = missed = 0
    for found, placed in zip(seen, true, strict=True):
        for who, at in enumerate(placed):
            if at is None:
                continue
            number = next((f.number for f in found if is_at(f.face, at)), None)
            if number is None:
                missed += 1
                continue
            changed += last.setdefault(who, number) != number
            last[who] = number
    return changed, missed, len({f.number for found in seen for f in found})


def _crossing(mesh: FaceMesh) -> list[Result]:
    clip = crossing()
    tracker = FaceTracker(FaceFinder(mesh=mesh, turns=(0,)))
    seen = [tracker.push(rgb) for rgb, _ in clip]
    changed, missed, given = switches(seen, [placed for _, placed in clip])
    visible = sum(p is not None for _, placed in clip for p in placed)
    return [
        result(f"changes of number in a crossing of {FRAMES} frames", changed, "", "== 0", changed == 0),
        result("visible faces not seen in it", missed, f"of {visible}"),
        result("numbers given to its three faces", given, "", "== 3", given == 3),
        result("faces a frame, median", float(median(len(s) for s in seen)), ""),
    ]
