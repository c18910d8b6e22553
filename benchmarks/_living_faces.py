"""What finished frames show of life: blinks, a head that sways, lips that rest while nothing is said, no stretch that is a still.

A portrait is animated as `animate` does it, in its own framing, first speaking and then silent for as long. Everything is measured on the
frames with our face mesh, nothing is taken from the rules that made it. Part of bench looks.

Shapes: T frames, w x h pixels of a patch of an eye.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

import numpy as np
from scipy.ndimage import map_coordinates

from benchmarks._common import Result, demo_portrait, result, say, speech_of
from benchmarks._corpus import RATE, Face, held_faces
from benchmarks._truth import corpus_folder
from tm_core import talk
from tm_core.errors import InputError
from tm_core.face.topology import LEFT_EYE, RIGHT_EYE
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.metrics.lip_sync import lip_gap
from tm_core.model.talking import TalkingModel

LIFE_S, PORTRAITS = 60.0, 3  # half of the seconds are speech
DEMO = "image_z_image_turbo-1"  # the held-out identity of the bundled portrait
BLINKS, NOSE_MOVES, LEAST_LISTENING = (8.0, 25.0), (0.005, 0.02), 1 / 3  # a minute; of the face's width; of what moves in speech
LONGEST_STILL_S, MAX_LIPS = 1.0, 0.10
NOSE, CHEEKS = 1, (234, 454)
SETTLED_S = 1.0  # at the ends of both halves: lips and head are on their way
PATCH = (16, 32)  # rows and columns of an eye's patch, one eye's width wide
SHUT_LEVELS, SHUT_TIMES, SHUT_FRAMES = 6.0, 3.0, range(2, 13)  # of 255, and of its usual change: how an eye's look changes in a blink
AROUND_S = 1.5  # to either side: how an eye usually looks just then
CHANGED_LEVELS, CHANGED_SHARE = 3, 0.005  # two frames differ where so many of the face's pixels differ by so many levels
ROOM = 0.1  # of the face's extent: what of the frame is looked at around it


@dataclass(frozen=True, kw_only=True)
class LifeRecord:
    """What is kept of T frames of one face."""

    landmarks: np.ndarray  # (T, 468, 3), NaN: no face
    eyes: np.ndarray  # (T, 2, h, w) patches in grey levels, laid by the eyes' corners
    alike: np.ndarray  # (T,) how many frames before it look like each one, in a row

    def part(self, begin_s: float, end_s: float, fps: float) -> LifeRecord:
        """The frames of a stretch; what looks alike is counted from its beginning."""
        cut = slice(round(begin_s * fps), round(end_s * fps))
        alike = self.alike[cut]
        return LifeRecord(landmarks=self.landmarks[cut], eyes=self.eyes[cut], alike=np.minimum(alike, np.arange(len(alike))))


class LifeWatcher:
    """Frames are shown to it as they come; it keeps few."""

    def __init__(self, fps: float) -> None:
        self._recent: deque[np.ndarray] = deque(maxlen=round(2 * LONGEST_STILL_S * fps))
        self._box: tuple[int, int, int, int] | None = None
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def see(self, frames: np.ndarray) -> None:
        """The next frames (T, H, W, 3) uint8."""
        hint = self._parts[-1][0][-1] if self._parts else None
        landmarks = talk.face_mesh().landmarks_batch(frames, hint)
        if self._box is None:
            self._box = _face_box(landmarks, frames.shape)
        x0, y0, x1, y1 = self._box
        alike = [self._alike(frame) for frame in frames[:, y0:y1, x0:x1]]
        eyes = np.stack([_eye_patches(f, m) for f, m in zip(frames, landmarks, strict=True)])
        self._parts.append((landmarks, eyes, np.array(alike)))

    def _alike(self, face: np.ndarray) -> int:
        count = 0
        for before in reversed(self._recent):
            if changed(before, face):
                break
            count += 1
        self._recent.append(face.copy())
        return count

    @property
    def record(self) -> LifeRecord:
        """Of all frames so far."""
        landmarks, eyes, alike = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return LifeRecord(landmarks=landmarks, eyes=eyes, alike=alike)


def changed(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two pictures (h, w, 3) uint8 differ by more than one would see."""
    apart = np.abs(before.astype(np.int16) - after).max(2)
    return float((apart >= CHANGED_LEVELS).mean()) > CHANGED_SHARE


def _face_box(landmarks: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    known = landmarks[~np.isnan(landmarks[:, 0, 0])]
    if not len(known):
        raise InputError("video", "its first frames", "show no face", "look at the portrait")
    low, high = known[0, :, :2].min(0), known[0, :, :2].max(0)
    room = ROOM * float((high - low).max())
    (x0, y0), (x1, y1) = np.maximum(low - room, 0).astype(int), (high + room).astype(int)
    return int(x0), int(y0), min(int(x1), shape[2]), min(int(y1), shape[1])


def _eye_patches(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(2, *PATCH) grey levels between the corners of both eyes, twice as wide as tall; NaN without landmarks."""
    rows, columns = PATCH
    if np.isnan(landmarks[0, 0]):
        return np.full((2, *PATCH), np.nan, np.float32)
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns - 0.5, ((np.arange(rows) + 0.5) / rows - 0.5) / 2)
    found = []
    for corners in (RIGHT_EYE, LEFT_EYE):
        a, b = sorted((landmarks[corner, :2].astype(np.float64) for corner in corners), key=lambda p: float(p[0]))
        across, middle = b - a, (a + b) / 2
        at = middle + x[..., None] * across + y[..., None] * np.array([-across[1], across[0]])
        low, high = np.maximum(at.min((0, 1)).astype(int) - 1, 0), at.max((0, 1)).astype(int) + 3
        grey = frame[low[1] : high[1], low[0] : high[0]].astype(np.float32).mean(2)
        found.append(map_coordinates(grey, [at[..., 1] - low[1], at[..., 0] - low[0]], order=1, mode="nearest"))
    return np.stack(found)


def watch(chunks: Iterable[np.ndarray], fps: float) -> LifeRecord:
    """Of the frames (T, H, W, 3) uint8 of a video, in pieces."""
    watcher = LifeWatcher(fps)
    for frames in chunks:
        watcher.see(frames)
    return watcher.record


# -- what it says -----------------------------------------------------------------------------------------


def blinks(eyes: np.ndarray, fps: float) -> int:
    """How often both eyes (T, 2, h, w) look otherwise than just before and after, for as long as a blink lasts."""
    reach, shut = round(AROUND_S * fps), np.ones(len(eyes), bool)
    for eye in np.moveaxis(eyes, 1, 0):
        off = np.array([np.abs(eye[t] - np.nanmedian(eye[max(0, t - reach) : t + reach + 1], 0)).mean() for t in range(len(eye))])
        shut &= off > max(SHUT_LEVELS, SHUT_TIMES * float(np.nanmedian(off)))
    return sum(bool(closed) and len(list(run)) in SHUT_FRAMES for closed, run in groupby(shut))


def nose_moves(landmarks: np.ndarray) -> tuple[float, float]:
    """How far the nose's tip goes, in widths of the face: its distance from its mean place (root of the mean square), and how wide its
    path is (the longer side, without the outermost twentieth at either end)."""
    wide = float(np.nanmedian(np.linalg.norm(landmarks[:, CHEEKS[0], :2] - landmarks[:, CHEEKS[1], :2], axis=-1)))
    tip = landmarks[:, NOSE, :2].astype(np.float64) / wide
    low, high = np.nanpercentile(tip, [5, 95], axis=0)
    return float(np.sqrt(np.nanvar(tip, axis=0).sum())), float((high - low).max())


def longest_still_s(record: LifeRecord, fps: float) -> float:
    """The longest stretch of frames that look like its last one."""
    return float(record.alike.max()) / fps


@dataclass(frozen=True, kw_only=True)
class LifeSigns:
    """The figures of one video."""

    name: str
    blinks_a_minute: float
    nose: tuple[float, float]  # speaking, listening
    path: tuple[float, float]
    still_s: tuple[float, float]
    lips: float  # listening over speaking
    seen: float  # share of frames with a face

    @classmethod
    def of(cls, name: str, record: LifeRecord, fps: float) -> LifeSigns:
        """Of a video whose first half speaks."""
        end = len(record.landmarks) / fps
        halves = [record.part(a + SETTLED_S, b - SETTLED_S, fps) for a, b in ((0, end / 2), (end / 2, end))]
        (nose, path), still = zip(*(nose_moves(h.landmarks) for h in halves), strict=True), [longest_still_s(h, fps) for h in halves]
        speaking, listening = (float(np.nanstd(lip_gap(h.landmarks))) for h in halves)
        return cls(
            name=name, blinks_a_minute=blinks(record.eyes, fps) / end * 60, nose=nose, path=path, still_s=(still[0], still[1]),
            lips=listening / max(speaking, 1e-9), seen=float(np.mean(~np.isnan(record.landmarks[:, 0, 0]))))


def life_rows(model: TalkingModel, seconds: float = LIFE_S) -> list[Result]:
    """Of the bundled portrait and of two held-out ones; InputError without the corpora."""
    others = sorted((f for f in held_faces(corpus_folder()) if f.name != DEMO), key=lambda f: -min(open_image(f.path).shape[:2]))
    faces = [Face(name="demo", path=demo_portrait()), *others[: PORTRAITS - 1]]
    found = []
    for i, face in enumerate(faces):
        signs = LifeSigns.of(face.name, _watched(model, face, seconds, i), float(model.config.fps))
        say(f"{signs}")
        found.append(signs)
    return signs_rows(found)


def _watched(model: TalkingModel, face: Face, seconds: float, seed: int) -> LifeRecord:
    speech = speech_of(seconds / 2)
    quiet = np.zeros(round(seconds / 2 * RATE), np.float32)
    sound = Waveform(samples=np.concatenate([speech.samples, quiet]))
    subject = talk.prepare_portrait(open_image(face.path), model.config)
    speaker = talk.select_speaking(talk.encode_audio(sound, model.config))
    stream = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speaker), seed=seed))
    return watch((chunk.frames for chunk in stream), float(model.config.fps))


def signs_rows(found: Sequence[LifeSigns]) -> list[Result]:
    """Every figure of the face that is furthest from its bar, and the mean."""
    low, high = BLINKS
    rows = [result("living faces: portraits, half speech and half silence", len(found), ", ".join(s.name for s in found))]
    for what, values in (
        ("fewest", [min(s.blinks_a_minute for s in found)]), ("most", [max(s.blinks_a_minute for s in found)])):
        rows.append(result(f"blinks, {what} of a face", values[0], "a minute", f"{low:g} to {high:g}", low <= values[0] <= high))
    least, most = NOSE_MOVES
    for what, value in (("least", min(s.nose[0] for s in found)), ("furthest", max(s.nose[0] for s in found))):
        rows.append(result(
            f"nose's tip from its mean place, speaking, {what} of a face", value, "of the face's width", f"{least:g} to {most:g}",
            least <= value <= most))
    quiet = min(s.nose[1] / s.nose[0] for s in found)
    rows += [
        result("the same, listening over speaking, least of a face", quiet, "", f">= {LEAST_LISTENING:.3f}", quiet >= LEAST_LISTENING),
        result("width of the nose's path, speaking, mean", fmean(s.path[0] for s in found), "of the face's width"),
        result("width of the nose's path, listening, mean", fmean(s.path[1] for s in found), "of the face's width")]
    for k, half in enumerate(("speaking", "listening")):
        longest = max(s.still_s[k] for s in found)
        rows.append(result(
            f"longest stretch without change, {half}", longest, "s", f"< {LONGEST_STILL_S:g}", longest < LONGEST_STILL_S))
    lips = max(s.lips for s in found)
    return [
        *rows, result("lip motion listening over speaking, most of a face", lips, "", f"<= {MAX_LIPS:g}", lips <= MAX_LIPS),
        result("frames in which the mesh finds the face, least", min(s.seen for s in found), "share")]

