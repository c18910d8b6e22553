"""What becomes of held-out pictures of every kind (train/corpus: held): which talk, which are named as beyond it, how sharp they stay.

Every picture is animated as `animate` does it, at its own framing and size, by a held-out voice. Part of bench looks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._common import Result, result, say
from benchmarks._corpus import Sound
from benchmarks._sheet import row_sheet
from benchmarks._truth import corpus_folder, look_at, waveform
from tm_core import talk
from tm_core.errors import InputError
from tm_core.face.choice import prominent
from tm_core.face.found import Faces, find_faces
from tm_core.face.networks import squares_of
from tm_core.media.image_io import open_image
from tm_core.metrics.lip_sync import lip_gap, opening_curve, sync_score
from tm_core.streaming.handles import DecodedStream
from tm_core.vae.rendering import FaceView
from tm_core.weights.loading import TalkingModel

TILE, ROOM = 128, 1.25  # pixels of a picture on the sheet; side of what it shows over the face's extent
MIN_R, MAX_CHANGE = 0.5, 0.10  # lips follow from here on; sharpness may change by so much
LATE, LEAST_RANGE = 2, 0.01  # frames by which lips that follow may be late or early; what they open by at least, of the face's height
LOOKS = ((1.0, 0.0), (0.85, 0.0), (1.2, 0.0), (1.0, 0.12), (1.0, -0.12))  # crops of a second look: larger, turned (radians)
EYES, SKIN, HAIR = (33, 133, 159, 145, 263, 362, 386, 374), (50, 280, 205, 425), (10, 338, 109)
LEAST_TEXTURE = 0.4  # mean absolute Laplacian, below which a region has nothing that could become less sharp


@dataclass(frozen=True, kw_only=True)
class KindVerdict:
    """What became of a picture, and how sharp its regions are while they move, 1 as in the picture."""

    name: str
    kinds: tuple[str, ...]
    outcome: str  # talks, warned, refused, breaks
    why: str
    frames: list[np.ndarray]
    sharpness: dict[str, float]
    untouched: bool = True


def kind_rows(model: TalkingModel, sound: Sound, at: dict[str, float], path: Path) -> list[Result]:
    """A row for each held-out picture and what counts of all; the sheet goes to `path`. InputError without the pictures."""
    found = []
    for entry in held_entries():
        verdict = _judged(model, open_image(entry["path"]), entry, sound, at)
        say(f"{verdict.name}: {verdict.outcome}, {verdict.why}")
        found.append(verdict)
    say(f"contact sheet: {row_sheet(['', *at], [(f'{v.name}: {v.outcome}, {v.why}', v.frames) for v in found], path)}")
    return [*(result(f"{v.name} ({', '.join(v.kinds)})", f"{v.outcome}: {v.why}", "") for v in found), *_counts(found)]


def held_entries() -> list[dict[str, Any]]:
    """The held-out pictures: file, path, kinds and what more held.json says. InputError without them."""
    index = corpus_folder() / "held" / "held.json"
    if not index.is_file():
        raise InputError("corpus", index, "not there", "make it with python -m tm_core.train.corpus --out build/corpus")
    return [{**entry, "path": index.parent / entry["file"]} for entry in json.loads(index.read_text())]


def speaking_stream(model: TalkingModel, picture: np.ndarray, sound: Sound) -> tuple[talk.Portrait, DecodedStream]:
    """The most prominent face of a picture saying a sound, as `animate` shows it; InputError where it is refused."""
    faces = prominent(find_faces(picture).faces)
    portrait = talk.prepare_portrait(
        picture, model.config, face_index=0 if faces else None,
        faces=Faces(faces=tuple(faces[:1]), width=picture.shape[1], height=picture.shape[0]) if faces else None)
    speaker = talk.select_speaking(talk.encode_audio(waveform(sound), model.config))
    return portrait, talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, portrait, speaker)))


def _counts(found: list[KindVerdict]) -> list[Result]:
    named = {k: sum(v.outcome == k for v in found) for k in ("talks", "warned", "refused", "breaks")}
    rows = [result(f"held-out pictures that are {k}" if k != "talks" else "held-out pictures that talk", n, f"of {len(found)}")
            for k, n in named.items() if k != "breaks"]
    rows.append(result("held-out pictures that break and are not named", named["breaks"], f"of {len(found)}", "0", named["breaks"] == 0))
    for region in ("eyes", "skin", "hair"):
        values = sorted(v.sharpness[region] for v in found if region in v.sharpness)
        if values:
            off = max(abs(v - 1) for v in values)
            unit, bar = "of the picture's", f"within {MAX_CHANGE:.0%}"
            rows.append(result(f"sharpness of {region}, median", median(values), unit, bar, abs(median(values) - 1) <= MAX_CHANGE))
            worst = max(values, key=lambda v: abs(v - 1))
            rows.append(result(f"sharpness of {region}, worst", worst, unit, bar, off <= MAX_CHANGE))
    changed = sum(not v.untouched for v in found)
    return [*rows, result("pictures changed outside the face's crop", changed, "", "0", changed == 0)]


def _judged(model: TalkingModel, picture: np.ndarray, entry: dict[str, object], sound: Sound, at: dict[str, float]) -> KindVerdict:
    name, kinds = str(entry["file"]).removesuffix(".png"), tuple(entry["kinds"])  # type: ignore[arg-type]
    blank = [np.asarray(Image.fromarray(picture).resize((TILE, TILE)))]

    def verdict(outcome: str, why: str, frames: list[np.ndarray] = blank, **more: object) -> KindVerdict:
        return KindVerdict(name=name, kinds=kinds, outcome=outcome, why=why, frames=frames, **{"sharpness": {}, **more})  # type: ignore[arg-type]

    try:
        portrait, stream = speaking_stream(model, picture, sound)
    except InputError as error:
        return verdict("refused", error.rule)
    view = stream.view
    assert view is not None
    cut, crops, untouched = around_face(view), [], True
    for chunk in stream:
        outside = np.ones(picture.shape[:2], bool)
        x0, y0, x1, y1 = (int(np.floor(v)) for v in view.box)
        outside[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = False
        untouched &= bool((chunk.frames[:, outside] == view.picture[outside]).all())
        crops.append(chunk.frames[:, cut[1] : cut[3], cut[0] : cut[2]])
    seen = np.concatenate(crops)
    moments = [min(int(t * float(model.config.fps)), len(seen) - 1) for t in at.values()]
    tiles = [view.picture[cut[1] : cut[3], cut[0] : cut[2]], *(seen[i] for i in moments)]
    frames = [np.asarray(Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS)) for tile in tiles]
    sharp = _sharpness(view, cut, seen)
    landmarks = look_at(seen).landmarks
    known = float(np.mean(~np.isnan(landmarks[:, 0, 0])))
    fps = float(model.config.fps)
    r, follow = follows(seen, landmarks, opening_curve(sound.phones, sound.samples, len(seen), fps), fps) if known > 0.9 else (0.0, False)
    if portrait.doubts:
        return verdict("warned", f"{portrait.doubts[0]}; lip r {r:.2f}", frames, sharpness=sharp, untouched=untouched)
    if known <= 0.9:
        return verdict("breaks", f"the mesh sees a face in {known:.0%} of the frames", frames, sharpness=sharp, untouched=untouched)
    return verdict("talks" if follow else "breaks", f"lip r {r:.2f}", frames, sharpness=sharp, untouched=untouched)


def follows(frames: np.ndarray, landmarks: np.ndarray, opening: np.ndarray, fps: float) -> tuple[float, bool]:
    """Lip r of a video (T, H, W, 3) uint8, and whether its lips follow the sound's opening (T,): correlated, in time, visibly.

    Where they do not by the landmarks (T, 468, 3), each frame is looked at through five crops: the mean gap has less of the mesh's noise,
    which is as large as what lips do in a beard, a broad smile or a painting. Noise only hides that lips follow; lips that do not move,
    or at another time, do not follow by the mean either.
    """
    r, follow = _followed(lip_gap(landmarks), opening, fps)
    if follow:
        return r, follow
    gaps = [lip_gap(points) for points in further_looks(frames, landmarks)]
    return _followed(np.mean(gaps, 0), opening, fps)


def further_looks(frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (L, T, 468, 3) of a video (T, H, W, 3) through L crops round those that are known (T, 468, 3), some NaN but not all."""
    known = np.flatnonzero(~np.isnan(landmarks[:, 0, 0]))
    nearest = landmarks[known[np.abs(np.arange(len(landmarks))[:, None] - known).argmin(1)]]
    squares, mesh = squares_of(nearest), talk.face_mesh()
    return np.stack([mesh.landmarks_in(frames, squares.around(larger, turned))[0] for larger, turned in LOOKS])


def _followed(gap: np.ndarray, opening: np.ndarray, fps: float) -> tuple[float, bool]:
    score = sync_score(gap, opening, fps)
    low, high = np.nanpercentile(gap, [2, 98])
    return score.peak_r, score.peak_r >= MIN_R and abs(score.lag_frames) <= LATE and high - low >= LEAST_RANGE


def around_face(view: FaceView) -> tuple[int, int, int, int]:
    """A square of the picture round the face, in pixels."""
    low, high = view.landmarks[:, :2].min(0), view.landmarks[:, :2].max(0)
    half = min(float((high - low).max()) * ROOM / 2, min(view.picture.shape[:2]) / 2)
    extent = np.array(view.picture.shape[1::-1], float)
    x, y = np.clip((low + high) / 2, half, extent - half)
    return int(x - half), int(y - half), int(x + half), int(y + half)


def _sharpness(view: FaceView, cut: tuple[int, int, int, int], frames: np.ndarray) -> dict[str, float]:
    """Of regions that have texture: mean absolute Laplacian in the frames over that in the picture; closed eyes are left out."""
    points = view.landmarks[:, :2] - np.array(cut[:2])
    still = view.picture[cut[1] : cut[3], cut[0] : cut[2]]
    height = float(np.ptp(points[:, 1]))
    open_ones = [i for i in range(0, len(frames), 3) if view.life is None or view.life.closure(i) == 0]
    found = {}
    for name, indices, up in (("eyes", EYES, 0.0), ("skin", SKIN, 0.0), ("hair", HAIR, 0.18)):
        place = points[list(indices)] - [0, up * height]
        (x0, y0), (x1, y1) = np.maximum(place.min(0) - 0.04 * height, 1).astype(int), (place.max(0) + 0.04 * height).astype(int)
        x1, y1 = min(x1, still.shape[1] - 1), min(y1, still.shape[0] - 1)
        if x1 - x0 < 4 or y1 - y0 < 4:
            continue
        before = _laplacian(still[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1])
        if before >= LEAST_TEXTURE:
            found[name] = float(np.mean([_laplacian(frames[i, y0 - 1 : y1 + 1, x0 - 1 : x1 + 1]) for i in open_ones])) / before
    return found


def _laplacian(picture: np.ndarray) -> float:
    grey = picture.astype(np.float64).mean(2)
    return float(np.abs(4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]).mean())
