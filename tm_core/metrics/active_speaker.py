"""Who speaks, when, and which sound belongs to whom, from SyncNet's distances and the lips of every face.

As the paper picks its training data: the face whose confidence with the sound is highest speaks. Confidence is Sync-C,
and where phones were heard the correlation of lip gap and opening (lip_sync.py) is added lag by lag before its peak is
looked for: two networks' worth of evidence that fail on different faces. Over time the same is asked in windows of two
seconds at the offset that the whole video has, so that chance has one lag to be lucky at, not 31. Several sounds are
given to faces so that the sum of confidence is greatest. Non-goals: networks (face_distances.py), telling voices apart.

Shapes: N windows, A sounds, L lags, F faces, T ticks (25 a second).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .face_distances import FaceDistances
from .lip_sync import AUDIBLE, CURVE_RATE, loudness, without_slow
from .syncnet import FPS, FRAMES, REACH

LEAST_WINDOWS = FPS  # of a face: less than a second is chance
LEAST_PAIRS = 0.4  # of a face's windows: a lag that fewer of them have a sound for is not compared
SPEAKS, SPEAKS_BY_LIPS = 0.75, 1.1  # confidence from which a face is taken to speak: of SyncNet alone, with the lips' part
NOW, NOW_BY_LIPS = 0.25, 0.45  # the same in a window of two seconds at a known lag, where chance has a mean of zero
WINDOW_S, STEP_S = 2.0, 0.4
SHORTEST_S = 0.6  # of a segment
LAGS = np.arange(-REACH, REACH + 1)


@dataclass(frozen=True, kw_only=True)
class FaceScore:
    """Sync-C and Sync-D as published; offset in frames at 25 a second, positive where the picture is late, of the
    joined evidence; `lip_r` the correlation there (None without phones); confidence: that evidence above its median lag."""

    sync_c: float
    sync_d: float
    offset_frames: int
    lip_r: float | None
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch in which one face speaks; `face` None: a sound to which no face's lips move."""

    start_s: float
    end_s: float
    face: int | None
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Speakers:
    """Scores by face and sound (None: too short), sound of each face, the speaking face (None: none), who speaks when."""

    scores: list[list[FaceScore | None]]
    sound_of: list[int | None]
    speaker: int | None
    segments: list[Segment]


@dataclass(frozen=True, kw_only=True)
class FaceEvidence:
    """A face for the comparison with one sound: ticks (N,), distances (N, L), lips (T,) and opening (T',) or None."""

    at: np.ndarray
    rows: np.ndarray
    lips: np.ndarray
    opening: np.ndarray | None

    def part(self, inside: np.ndarray) -> FaceEvidence:
        """Some of the windows, `inside` (N,) bool."""
        return FaceEvidence(at=self.at[inside], rows=self.rows[inside], lips=self.lips, opening=self.opening)


def speakers(
    faces: Sequence[FaceDistances], sounds: Sequence[np.ndarray], fps: float, openings: Sequence[np.ndarray | None] | None = None,
) -> Speakers:
    """All of it for the faces of a video and its sounds (n,) at 16 kHz; `openings` (T,) of each sound, 25 a second, or None."""
    curves = [None if o is None else without_slow(o, FPS) for o in openings or [None] * len(sounds)]
    seen = [[_seen(face, a, fps, curve) for a, curve in enumerate(curves)] for face in faces]
    scores = [[None if s is None else score_of_face(s) for s in row] for row in seen]
    sound_of = assigned(scores)
    best = [(score.confidence, i) for i, (row, a) in enumerate(zip(scores, sound_of, strict=True)) if a is not None and (score := row[a])]
    least = SPEAKS if all(c is None for c in curves) else SPEAKS_BY_LIPS
    if not best or max(best)[0] < least:
        return Speakers(scores=scores, sound_of=sound_of, speaker=None, segments=[])
    segments = [s for a, sound in enumerate(sounds) for s in _segments(_mine(seen, scores, sound_of, a), sound)]
    return Speakers(scores=scores, sound_of=sound_of, speaker=max(best)[1], segments=sorted(segments, key=lambda s: s.start_s))


def _seen(face: FaceDistances, sound: int, fps: float, opening: np.ndarray | None) -> FaceEvidence | None:
    """What there is to compare; None below a second."""
    if len(face.at) < LEAST_WINDOWS or np.isnan(face.distances[:, sound]).all():
        return None
    return FaceEvidence(at=np.array(face.at), rows=face.distances[:, sound], lips=face.lips(fps), opening=opening)


def score_of_face(seen: FaceEvidence) -> FaceScore | None:
    """Scores of a face and a sound; None where the sound ends before there is enough to compare."""
    curve = curve_of(seen.rows)
    if np.isnan(curve).all():
        return None
    net, lips = np.nanmedian(curve) - curve, lip_curve(seen)
    evidence = net if lips is None else net + lips
    best = int(np.nanargmax(evidence))
    return FaceScore(
        sync_c=float(np.nanmax(net)), sync_d=float(np.nanmin(curve)), offset_frames=int(-LAGS[best]),
        lip_r=None if lips is None else float(lips[best]), confidence=float(evidence[best] - np.nanmedian(evidence)))


def curve_of(rows: np.ndarray) -> np.ndarray:
    """Mean distance (L,) by lag of rows (N, L); NaN where too few windows have a sound at that lag."""
    enough = (~np.isnan(rows)).sum(0) >= max(2, LEAST_PAIRS * len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number is what `enough` is for
        return np.where(enough, np.nanmean(rows, 0), np.nan)


def lip_curve(seen: FaceEvidence) -> np.ndarray | None:
    """Correlation (L,) by lag of lips and opening over the windows' middles; zero where too few have an opening."""
    if seen.opening is None:
        return None
    middle = seen.at + FRAMES // 2
    middle = middle[(middle < len(seen.lips)) & ~np.isnan(seen.lips[np.minimum(middle, len(seen.lips) - 1)])]
    return np.array([_correlation(seen.lips, seen.opening, middle, int(lag)) for lag in LAGS])


def _correlation(lips: np.ndarray, opening: np.ndarray, ticks: np.ndarray, lag: int) -> float:
    heard = ticks + lag
    inside = (heard >= 0) & (heard < len(opening))
    if inside.sum() < max(FPS // 2, LEAST_PAIRS * len(ticks)):
        return 0.0
    a, b = lips[ticks[inside]], opening[heard[inside]]
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / spread) if spread > 1e-12 else 0.0


def assigned(scores: Sequence[Sequence[FaceScore | None]]) -> list[int | None]:
    """The sound of each face. One sound belongs to all of them: they are compared on it; of several each has one face."""
    if not scores or not scores[0]:
        return [None] * len(scores)
    if len(scores[0]) == 1:
        return [0 if row[0] else None for row in scores]
    gain = np.array([[s.confidence if s else -1.0 for s in row] for row in scores])
    of: list[int | None] = [None] * len(scores)
    for face, sound in zip(*linear_sum_assignment(-gain), strict=True):
        of[face] = int(sound) if scores[face][sound] else None
    return of


def confidence_at(seen: FaceEvidence, offset: int) -> float:
    """Evidence at a known offset, give or take a frame, above its median lag."""
    curve, lips = curve_of(seen.rows), lip_curve(seen)
    evidence = -curve if lips is None else lips - curve
    near = evidence[np.abs(LAGS + offset) <= 1]
    return float("nan") if np.isnan(near).all() else float(np.nanmean(near) - np.nanmedian(evidence))


_Candidates = list[tuple[int, FaceEvidence, FaceScore]]


def _mine(
    seen: Sequence[Sequence[FaceEvidence | None]], scores: Sequence[Sequence[FaceScore | None]], sound_of: Sequence[int | None], sound: int,
) -> _Candidates:
    """The faces that are compared on one sound."""
    return [(i, s, score) for i, a in enumerate(sound_of) if a == sound and (s := seen[i][a]) and (score := scores[i][a])]


def _segments(mine: _Candidates, samples: np.ndarray) -> list[Segment]:
    """Stretches of one sound, by who speaks."""
    if not mine:
        return []
    offset = max(mine, key=lambda m: m[2].confidence)[2].offset_frames
    last = max(int(s.at[-1]) for _, s, _ in mine) + FRAMES
    told = [(start, *_speaker_at(mine, offset, start + STEP_S / 2)) for start in _audible_steps(samples, last / FPS)]
    return [s for s in _joined(told) if s.end_s - s.start_s >= SHORTEST_S - 1e-6]


def _audible_steps(samples: np.ndarray, seconds: float) -> list[float]:
    """Beginnings of the steps in which there is a sound."""
    count = int(min(seconds, len(samples) / 16000) / STEP_S)
    loud = loudness(samples, int((count + 1) * STEP_S * CURVE_RATE)) > AUDIBLE
    size = int(STEP_S * CURVE_RATE)
    return [i * STEP_S for i in range(count) if loud[i * size : (i + 1) * size].mean() > 0.25]


def _speaker_at(mine: _Candidates, offset: int, at_s: float) -> tuple[int | None, float]:
    """The face that speaks round a moment, and its confidence."""
    low, high, found = (at_s - WINDOW_S / 2) * FPS, (at_s + WINDOW_S / 2) * FPS, []
    for i, seen, _ in mine:
        inside = (seen.at >= low) & (seen.at + FRAMES <= high)
        if inside.sum() >= WINDOW_S * FPS / 4:
            found.append((confidence_at(seen.part(inside), offset), i))
    sure, face = max((f for f in found if not np.isnan(f[0])), default=(0.0, -1))
    least = NOW if mine[0][1].opening is None else NOW_BY_LIPS
    return (face, sure) if face >= 0 and sure >= least else (None, sure)


def _joined(told: Sequence[tuple[float, int | None, float]]) -> Iterator[Segment]:
    """Steps in a row with the same face as one segment; a pause of one step does not end it."""
    part: list[tuple[float, int | None, float]] = []
    for step in told:
        if part and (step[1] != part[-1][1] or step[0] - part[-1][0] > 2 * STEP_S + 1e-6):
            yield _segment(part)
            part = []
        part.append(step)
    if part:
        yield _segment(part)


def _segment(part: Sequence[tuple[float, int | None, float]]) -> Segment:
    return Segment(
        start_s=round(part[0][0], 2), end_s=round(part[-1][0] + STEP_S, 2), face=part[0][1],
        confidence=round(float(np.mean([p[2] for p in part])), 3))


def as_json(faces: Sequence[FaceDistances], found: Speakers, fps: float) -> list[dict[str, Any]]:
    """One entry a face: where and when it is seen, its score with its own sound and with all of them, when it speaks."""
    out = []
    for i, face in enumerate(faces):
        own = found.sound_of[i]
        score = None if own is None else found.scores[i][own]
        frames = sorted(face.gap)
        speech = [asdict(s) for s in found.segments if s.face == i]
        out.append({
            "face": i, "box": face.box, "frames": len(frames), "first_s": frames[0] / fps, "last_s": (frames[-1] + 1) / fps,
            "sync_c": score.sync_c if score else None, "sync_d": score.sync_d if score else None,
            "offset_frames": score.offset_frames if score else None, "lip_r": score.lip_r if score else None,
            "confidence": score.confidence if score else None, "judged_s": (len(face.at) + FRAMES - 1) / FPS if face.at else 0.0,
            "audio": own, "audios": [None if s is None else asdict(s) for s in found.scores[i]],
            "speaks": i == found.speaker or bool(speech), "speaking_s": sum(s["end_s"] - s["start_s"] for s in speech), "segments": speech})
    return out

