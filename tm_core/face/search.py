"""Every face of a picture: many, small ones in large pictures, heads on their side or upside down, in reading order.

The detector, a network of convolutions only, runs over the picture at several scales and in four quarter turns; the mesh
then confirms each face. `glance` looks at the whole picture once, which is quick and enough for a portrait: `only_face` says
when it was enough. Non-goals: who a face is (track), which one is meant (choice), video (track, mesh), profiles. No section
of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from .choice import SMALLEST_SHARE, prominent
from .crops import Squares
from .networks import (
    DETECTOR_SIZE,
    SCORE,
    Box,
    Face,
    FaceBox,
    FaceNetworks,
    area,
    cells,
    check_picture,
    overlap,
    same_place,
    shared_area,
    sigmoid,
    square_of_box,
    squares_of,
)

SMALLEST, MOST = 32, 64  # defaults: pixels of a face's longer side; faces in a picture
LEAST = 12  # pixels: below that there is no face to be seen
DETAILED = 10e6  # pixels of a picture: in larger ones the smallest face grows with the side, which bounds the time
SEEN_AS = 28.0  # pixels of the network at which a face of the smallest size is looked at; it sees those of 18 and more
STEP = 2.0  # between scales
COARSEST = 80  # pixels of the longer side: a face that fills the picture is found with black round it
BORDER = 16  # black pixels round the picture
TILE, TILE_OVERLAP = 768, 128  # pixels of the network looked at at once: bounds the memory; no face is larger than the overlap
UNIT = 16  # sides the network takes are multiples
SAME_BOX = 0.3  # intersection over union: two answers of the detector for one face
# the mesh's logit and the detector's score together: on the bench's groups faces have 18 and more, folds and rings up to 12
SCORE_WEIGHT, SURE = 20.0, 14.0
TOUCHING, SURE_BESIDE = 0.1, 0.75  # share of a box on a surer face; the detector's score it then needs: curls over a brow are no face
QUARTER_TURNS, UPRIGHT = (0, 1, 2, 3), (0,)
ROW_SHARE = 0.75  # of a face's height: centres that lie further apart are in different rows
CANDIDATES = 16  # of a glance
SURE_OF_ANOTHER = 0.6  # the detector's score of a second face at a glance: a fold of a curtain must not make two of one
# the detector's score of what may be another face, and pixels of the network: on clouds 36 faces of 16 pixels had 0.41 and more,
DOUBT, DOUBT_SEEN_AS, CLEAR = 0.35, 16, 20  # of 18 pixels 0.54: what is CLEAR has SCORE, or is none
LEAST_DOUBT = 0.8  # of SMALLEST_SHARE: a box is a little smaller than its face
SAME_POINTS = 0.1  # of a face: landmarks that lie nearer are the same face seen the same way
SHARE_IN_VIDEO = 0.08  # of a frame's shorter side: smaller faces are not looked for in every frame


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What one look at a whole picture shows: upright faces, those of them that are sure, and boxes that may be others.

    The best boxes come first. Several faces together may look like a large one, but not surely.
    """

    faces: list[Face]
    sure: list[Face]
    doubts: list[FaceBox]


def glance(networks: FaceNetworks, rgb: np.ndarray) -> Glance:
    """Upright faces of at least an eighth of a picture's (H, W, 3) longer side or so, which costs a fortieth of a second."""
    boxes = networks.detect(rgb, least=DOUBT)
    likely = [box for box in boxes if box.score > SCORE][:CANDIDATES]
    faces: list[Face] = []
    sure: list[Face] = []
    for box, (face, certainty) in zip(likely, _meshed(networks, rgb, likely), strict=True):
        doubtful = face.score <= 0.5 or (faces and box.score < SURE_OF_ANOTHER)
        if not doubtful and not any(same_place(face.box, other.box) for other in faces):
            faces.append(face)
            sure += [face] if certainty > SURE else []
    return Glance(faces=faces, sure=sure, doubts=boxes)


def only_face(networks: FaceNetworks, rgb: np.ndarray) -> Face | None:
    """The only prominent upright face of a picture (H, W, 3) uint8; None: a search of everything has to say what there is.

    Quick where a face is large: only others that are not in the background beside it are looked for.
    """
    seen = glance(networks, rgb)
    known = seen.sure or faces_of_frame(networks, rgb)
    if len(seen.sure) == len(seen.faces) == 1 and _alone(networks, rgb, seen):
        return known[0]
    smallest = max([float(SMALLEST), *(SMALLEST_SHARE * face.extent for face in known)])
    large = prominent(FaceFinder(mesh=networks, smallest=smallest, turns=UPRIGHT)(rgb))
    return large[0] if len(large) == 1 else None


def _alone(networks: FaceNetworks, rgb: np.ndarray, seen: Glance) -> bool:
    """Nothing beside the face of a glance may be another one; looks closer where the glance was too coarse to say."""
    (face,), longer = seen.sure, max(rgb.shape[:2])
    if _others(seen.doubts, face, longer / DETECTOR_SIZE):
        return False
    pixels = _whole_units(round(DOUBT_SEEN_AS * longer / (SMALLEST_SHARE * face.extent)))
    closer = [] if pixels <= DETECTOR_SIZE else networks.detect(rgb, margins=(1.0,), pixels=pixels, least=DOUBT)
    return not _others(closer, face, longer / pixels)


def _others(boxes: Sequence[FaceBox], face: Face, unit: float) -> list[FaceBox]:
    """Boxes of what may be a face besides `face`, but not one in the background; `unit`: a pixel of the network in the picture."""
    least = LEAST_DOUBT * SMALLEST_SHARE * face.extent
    beside = [b for b in boxes if not _inside(_centre(b.box), face.box)]
    return [b for b in beside if (side := b.box[2] - b.box[0]) > least and (b.score > SCORE or side < CLEAR * unit)]


def faces_of_frame(networks: FaceNetworks, rgb: np.ndarray) -> list[Face]:
    """Upright faces of a video's frame (H, W, 3) uint8 that are not tiny, in reading order: quicker than all of a picture."""
    smallest = max(float(SMALLEST), SHARE_IN_VIDEO * min(rgb.shape[:2]))
    return FaceFinder(mesh=networks, smallest=smallest, turns=UPRIGHT)(rgb)


def _meshed(networks: FaceNetworks, rgb: np.ndarray, boxes: Sequence[FaceBox]) -> list[tuple[Face, float]]:
    """What the mesh makes of boxes, and how sure that is: it looks twice, as the place is known better then."""
    if not boxes:
        return []
    landmarks, _ = networks.landmarks_in(rgb[None], Squares.join([square_of_box(b) for b in boxes]))
    landmarks, presence = networks.landmarks_in(rgb[None], squares_of(landmarks))
    certainty = presence + SCORE_WEIGHT * (np.array([b.score for b in boxes]) - SCORE)
    faces = [Face(landmarks=p, score=float(s)) for p, s in zip(landmarks, sigmoid(presence), strict=True)]
    return list(zip(faces, map(float, certainty), strict=True))


@dataclass(frozen=True, kw_only=True)
class FaceFinder:
    """Faces of at least `smallest` pixels, the `most` surest, in reading order; `turns` are the quarter turns looked in.

    In a picture of more than DETAILED pixels SMALLEST, and what is below it, grows with the picture's side.
    """

    mesh: FaceNetworks
    smallest: float = SMALLEST
    most: int = MOST
    turns: tuple[int, ...] = QUARTER_TURNS

    def __post_init__(self) -> None:
        if self.smallest < LEAST:
            raise InputError("smallest", self.smallest, f"faces below {LEAST} pixels are not told from noise", f"set it to {LEAST} or more")
        if self.most < 1:
            raise InputError("most", self.most, "at least one face is looked for", "set it to 1 or more")

    def __call__(self, rgb: np.ndarray) -> list[Face]:
        """Faces of a picture (H, W, 3) uint8; one that a glance shows has the same landmarks here."""
        check_picture(rgb)
        seen = [face for face in glance(self.mesh, rgb).faces if face.extent >= 0.75 * self.smallest_in(rgb)]
        found = [next((s for s in seen if _same_points(face, s)), face) for face in self._confirmed(rgb, self.candidates(rgb))]
        return reading_order((found or seen)[: self.most])  # drawn faces are never sure: a glance's stand where nothing is

    def smallest_in(self, rgb: np.ndarray) -> float:
        """Pixels of the smallest face that is looked for in a picture (H, W, 3)."""
        growth = max(1.0, float(np.sqrt(rgb.shape[0] * rgb.shape[1] / DETAILED)))
        return max(self.smallest, min(self.smallest, SMALLEST) * growth)

    def candidates(self, rgb: np.ndarray) -> list[FaceBox]:
        """What the detector takes for faces, best first, one for each place; score 0..1."""
        picture = Image.fromarray(rgb)
        boxes = [box for scale in self._scales(rgb) for box in self._at_scale(picture, scale)]
        return _best_of_places(boxes)

    def _scales(self, rgb: np.ndarray) -> list[float]:
        finest = SEEN_AS / self.smallest_in(rgb)
        coarsest = min(COARSEST / max(rgb.shape[:2]), finest)
        steps = int(np.ceil(np.log(finest / coarsest) / np.log(STEP) - 1e-6))
        return [finest / STEP**i for i in range(steps + 1)]

    def _at_scale(self, picture: Image.Image, scale: float) -> Iterator[FaceBox]:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        small = np.asarray(picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
        ratio = np.array([picture.width, picture.height]) / size
        for turn in self.turns:
            turned = np.rot90(small, turn)
            for points, score in self._detected(turned):
                place = (_unturned(points, turn, size) + 0.5) * ratio - 0.5
                yield _box(place, score)

    def _detected(self, rgb: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        """Points (4, 2) - two corners, two eyes - in a picture's own pixels, and their score."""
        for x, y, tile in _tiles(rgb):
            tensor = torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 127.5 - 1
            out = self.mesh.detector(tensor)
            scores = sigmoid(out["classificators"][0, :, 0].cpu().numpy())
            values = out["regressors"][0].cpu().numpy().reshape(-1, 8, 2)
            at = cells(tile.shape[1], tile.shape[0])
            for i in np.flatnonzero(scores > SCORE):
                centre, eyes = values[i, 0] + at[i], values[i, 2:4] + at[i]
                half = values[i, 1] / 2
                points = np.array([centre - half, centre + half, *eyes])
                yield points + np.array([x - 0.5, y - 0.5]), float(scores[i])

    def _confirmed(self, rgb: np.ndarray, boxes: list[FaceBox]) -> list[Face]:
        """Faces the mesh agrees on, surest first, each once."""
        boxes = boxes[: 4 * self.most]
        least = 0.75 * self.smallest_in(rgb)
        meshed = zip(_meshed(self.mesh, rgb, boxes), boxes, strict=True)
        kept: list[Face] = []
        for (face, certainty), box in sorted(meshed, key=lambda one: -one[0][1]):
            good = certainty > SURE and _stayed(box, face) and face.extent >= least
            if good and not any(_same_or_ghost(face, box.score, k) for k in kept):
                kept.append(face)
        return kept


def reading_order(faces: list[Face]) -> list[Face]:
    """From left to right, in rows from top to bottom; centres less than ROW_SHARE of a face apart in height are one row."""
    rows: list[list[Face]] = []
    for face in sorted(faces, key=lambda f: (middle(f)[1], middle(f)[0])):
        if rows and _in_row(face, rows[-1]):
            rows[-1].append(face)
        else:
            rows.append([face])
    return [face for row in rows for face in sorted(row, key=middle)]


def _in_row(face: Face, row: list[Face]) -> bool:
    below = middle(face)[1] - float(np.mean([middle(f)[1] for f in row]))
    return below < ROW_SHARE * float(np.mean([f.extent for f in [*row, face]]))


def middle(face: Face) -> tuple[float, float]:
    """Centre of a face's box."""
    return _centre(face.box)


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _same_points(a: Face, b: Face) -> bool:
    """One face seen the same way, its landmarks almost where they were."""
    return float(np.linalg.norm(a.landmarks[:, :2] - b.landmarks[:, :2], axis=1).mean()) < SAME_POINTS * b.extent


def _same_or_ghost(face: Face, score: float, surer: Face) -> bool:
    """A face that is known already, or a weak answer of the detector that lies partly on one."""
    on_it = shared_area(face.box, surer.box) > TOUCHING * min(area(face.box), area(surer.box))
    return same_place(face.box, surer.box) or (on_it and score < SURE_BESIDE)


def _stayed(box: FaceBox, face: Face) -> bool:
    """The mesh's face is the detector's: it neither ran away nor grew or shrank a lot."""
    away = float(np.linalg.norm(np.array(middle(face)) - _centre(box.box)))
    width = box.box[2] - box.box[0]
    return bool(away < 0.6 * width and 0.5 < face.extent / width < 2.2)


def _best_of_places(boxes: list[FaceBox]) -> list[FaceBox]:
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda b: -b.score):
        if not any(overlap(box.box, k.box) > SAME_BOX and _turned_alike(box, k) for k in kept):
            kept.append(box)
    return kept


def _turned_alike(a: FaceBox, b: FaceBox) -> bool:
    """Within 60 degrees: a face seen upright and upside down is two candidates, and the mesh decides."""
    u, v = a.eyes[1] - a.eyes[0], b.eyes[1] - b.eyes[0]
    return float(u @ v) > 0.5 * float(np.linalg.norm(u) * np.linalg.norm(v))


def _box(points: np.ndarray, score: float) -> FaceBox:
    low, high = points[:2].min(0), points[:2].max(0)
    return FaceBox(box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])), eyes=points[2:], score=score)


def _unturned(points: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Points (P, 2) of np.rot90(picture, turn) in the picture's own pixels; size: its (width, height)."""
    x, y = points[:, 0], points[:, 1]
    last_x, last_y = size[0] - 1, size[1] - 1
    return np.stack([(x, y), (last_x - y, x), (last_x - x, last_y - y), (y, last_y - x)][turn], -1)


def _tiles(rgb: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left, top and pixels of overlapping parts of a picture with black round it, sides multiples of UNIT."""
    height, width = rgb.shape[:2]
    step = TILE - TILE_OVERLAP
    for y in range(-BORDER, max(1, height + BORDER - TILE_OVERLAP), step):
        for x in range(-BORDER, max(1, width + BORDER - TILE_OVERLAP), step):
            right, bottom = min(x + TILE, width + BORDER), min(y + TILE, height + BORDER)
            tile = np.zeros((_whole_units(bottom - y), _whole_units(right - x), 3), np.uint8)
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(right, width), min(bottom, height)
            tile[y0 - y : y1 - y, x0 - x : x1 - x] = rgb[y0:y1, x0:x1]
            yield x, y, tile


def _whole_units(n: int) -> int:
    return -(-n // UNIT) * UNIT
