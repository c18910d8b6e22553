"""Group pictures composed of portraits at known places, and pictures without a face, for `bench faces`.

A group picture lies on generated cloud noise; each face is a round crop of a portrait, resized so that the longer
side of its landmarks has the size asked for, and turned. All of it follows from a seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks._common import ROOT
from tm_core.errors import InputError
from tm_core.face.choice import prominent
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait_crop import cut_portrait
from tm_core.media.image_io import open_image

CROP = 512
KEPT_AWAY = 0.25  # of the faces' extent: hair and ears belong to a face


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One person: crop (CROP, CROP, 3) uint8, landmarks (468, 2) in it."""

    name: str
    image: np.ndarray
    points: np.ndarray

    @property
    def extent(self) -> float:
        """Longer side of the face in the crop, in pixels."""
        return float(np.ptp(self.points, axis=0).max())


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a face was put: centre x, y and longer side in pixels, turn in degrees counterclockwise."""

    centre: tuple[float, float]
    extent: float
    turn: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """A picture (H, W, 3) uint8 and its faces in reading order."""

    name: str
    size: int
    image: np.ndarray
    faces: tuple[Placed, ...]


def portraits_folder() -> Path:
    """The shared portraits (TM_SHARED, or `shared` beside the repository)."""
    folder = Path(os.environ.get("TM_SHARED", ROOT.parent / "shared")) / "assets" / "portraits"
    if not folder.is_dir():
        raise InputError("TM_SHARED", folder.parents[1], "no assets/portraits there", "set TM_SHARED to the folder of shared assets")
    return folder


@lru_cache(maxsize=1)
def cutouts() -> tuple[Cutout, ...]:
    """The ranked portraits, each cropped round its largest face."""
    folder, mesh = portraits_folder(), FaceMesh()
    names = (folder / "GOOD.txt").read_text(encoding="utf-8").split()
    return tuple(_cutout(folder / name, mesh) for name in names)


def _cutout(path: Path, mesh: FaceMesh) -> Cutout:
    rgb = open_image(path)
    portrait = cut_portrait(rgb, CROP, max(mesh.faces(rgb), key=lambda face: face.extent))
    return Cutout(name=path.stem, image=portrait.image, points=portrait.landmarks[:, :2])


def clouds(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Colour noise of many sizes (height, width, 3) uint8."""
    out = np.zeros((height, width, 3), np.float32)
    cells, weight = 2, 1.0
    while cells < max(width, height):
        grid = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        out += weight * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        cells, weight = cells * 2, weight * 0.6
    low, high = np.percentile(out, [1, 99])
    return np.asarray(np.clip((out - low) / (high - low) * 230 + 12, 0, 255), np.uint8)


def place(canvas: Image.Image, cutout: Cutout, centre: tuple[float, float], extent: float, turn: float) -> Placed:
    """Paste a cutout so that its crop's centre lies at `centre`; what is true of the face then."""
    side = max(8, round(CROP * extent / cutout.extent))
    disc = Image.new("L", (CROP, CROP))
    ImageDraw.Draw(disc).ellipse((2, 2, CROP - 3, CROP - 3), fill=255)
    layers = [layer.rotate(turn, Image.Resampling.BICUBIC) for layer in (Image.fromarray(cutout.image), disc)]
    picture, mask = (layer.resize((side, side), Image.Resampling.LANCZOS) for layer in layers)
    corner = round(centre[0] - side / 2), round(centre[1] - side / 2)
    canvas.paste(picture, corner, mask)
    angle = -np.deg2rad(turn)  # PIL turns counterclockwise, y points down
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = side / CROP
    points = ((cutout.points + 0.5 - CROP / 2) @ spin.T + CROP / 2) * scale - 0.5 + corner
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    return Placed(centre=(float(middle[0]), float(middle[1])), extent=float((high - low).max()), turn=turn)


def group(name: str, size: int, rows: tuple[int, ...], turns: tuple[float, ...], seed: int) -> Group:
    """Faces of `size` pixels, rows[i] of them in row i, turned in the order of `turns`, over and over."""
    rng = np.random.default_rng(seed)
    pitch = 2.2 * size
    width, height = round(pitch * (max(rows) + 0.5)), round(pitch * (len(rows) + 0.3))
    canvas = Image.fromarray(clouds(width, height, rng))
    people, placed = cutouts(), []
    for r, count in enumerate(rows):
        for c in range(count):
            n = len(placed)
            jitter = rng.uniform(-0.12, 0.12, 2) * size
            centre = width * (c + 0.5) / count + jitter[0], pitch * (r + 0.65) + jitter[1]
            placed.append(place(canvas, people[(n + seed) % len(people)], centre, size, turns[n % len(turns)]))
    return Group(name=name, size=size, image=np.asarray(canvas), faces=tuple(placed))


LAYOUTS: tuple[tuple[int, ...], ...] = ((2,), (3,), (2, 2), (3, 2), (3, 3), (4, 4), (4, 4, 4))
POSES: dict[str, tuple[float, ...]] = {
    "upright": (0.0,), "tilted": (0.0, 20.0, -20.0, 40.0, -40.0), "turned": (0.0, 90.0, 180.0, 270.0, 120.0),
}
SIZES = (32, 48, 64, 96, 128, 256)


def groups() -> Iterator[Group]:
    """One picture of each size and pose; from two faces to twelve."""
    for s, size in enumerate(SIZES):
        for p, (pose, turns) in enumerate(POSES.items()):
            layout = LAYOUTS[(3 * s + p) % len(LAYOUTS)] if size < 256 else LAYOUTS[p % 3]
            yield group(f"{len(layout)} rows of {size}, {pose}", size, layout, turns, seed=10 * s + p)


def backgrounds() -> Iterator[tuple[str, np.ndarray]]:
    """What a portrait shows beside its faces: the largest strip left, right, above or below all of them, at twice the size."""
    mesh = FaceMesh()
    for path in [portraits_folder() / n for n in (portraits_folder() / "GOOD.txt").read_text(encoding="utf-8").split()]:
        rgb = open_image(path)
        boxes = np.array([f.box for f in prominent(mesh.faces(rgb))])
        around = KEPT_AWAY * max(boxes[:, 2:].max(0) - boxes[:, :2].min(0))
        x0, y0 = np.maximum(boxes[:, :2].min(0) - around, 0).astype(int)
        x1, y1 = (boxes[:, 2:].max(0) + around).astype(int)
        strip = max((rgb[:, :x0], rgb[:, x1:], rgb[:y0], rgb[y1:]), key=lambda part: part.size)
        twice = Image.fromarray(strip).resize((2 * strip.shape[1], 2 * strip.shape[0]), Image.Resampling.BICUBIC)
        yield f"beside {path.stem}", np.asarray(twice)


def textures() -> Iterator[tuple[str, np.ndarray]]:
    """Drawn patterns: checks, stripes, discs (pairs of them look like eyes), rings, bricks."""
    y, x = np.mgrid[0:480, 0:640]
    rng = np.random.default_rng(0)
    yield "checks", _grey((x // 40 + y // 40) % 2 * 200)
    yield "stripes", _grey(127 + 120 * np.sin(x / 9 + y / 31))
    yield "rings", _grey(127 + 120 * np.sin(np.hypot(x - 320, y - 240) / 8))
    yield "bricks", _grey(((y % 40 > 3) & ((x + y // 40 % 2 * 40) % 80 > 3)) * 150 + rng.integers(0, 60, x.shape))
    canvas = Image.new("RGB", (640, 480), (210, 180, 150))
    for _ in range(120):
        cx, cy, r = rng.uniform(0, 640), rng.uniform(0, 480), rng.uniform(3, 24)
        ImageDraw.Draw(canvas).ellipse((cx - r, cy - r, cx + r, cy + r), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    yield "discs", np.asarray(canvas)


def faceless() -> list[tuple[str, np.ndarray]]:
    """Twenty pictures without a face: nine strips beside faces, six clouds, five patterns."""
    skies = [(f"clouds {seed}", clouds(640, 480, np.random.default_rng(100 + seed))) for seed in range(6)]
    return [*backgrounds(), *skies, *textures()]


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(levels, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
