"""All measures of a talking video, read frame by frame: memory does not grow with its length, but for a few numbers a frame.

The lips, the drift and the pauses are those of the face that leads (the largest at the beginning); SyncNet judges every face.

Non-goals: reading files (media), asking users (cli).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import InputError
from ..face.mesh import FaceMesh
from .active_speaker import Speakers, as_json, speakers
from .drift import DriftMeter
from .face_distances import FaceDistances, SyncDistanceMeter
from .face_follower import FaceFollower
from .lip_sync import LEAST_S, closure_score, lip_gap, margin_score, opening_curve, shifted_curves, silence_score, sync_score
from .phones import Phone, Recogniser, installed, recognise_phones
from .syncnet import FPS, FRAMES, REACH, SyncNet, load_syncnet, score_of

log = logging.getLogger(__name__)

SYNCNET_S = 10.0  # of the leading face's beginning are what `syncnet` says
JUDGED_S = 30.0  # of the beginning are judged by SyncNet, face by face: it is slow
BLOCK = 32  # frames looked at together
RECOGNISERS: tuple[Recogniser, ...] = ("pocketsphinx", "hama")
PhonesByRecogniser = dict[str, Sequence[Phone]]


def score_video(
    frames: Iterable[np.ndarray], fps: float, samples: np.ndarray | Sequence[np.ndarray] | None = None, *, mesh: FaceMesh | None = None,
    phones: Sequence[Phone] | None = None, rest_gap: float | None = None, seconds: float | None = JUDGED_S,
) -> dict[str, Any]:
    """Lip sync, silence, closures, drift of a video and a score of each face as JSON types.

    Frames (H, W, 3) uint8; `samples` its 16 kHz sound, several sounds (one face speaks each) or None; `phones` where they
    are known, otherwise they are heard; `rest_gap` of the portrait, if known; `seconds` that SyncNet judges, None: all.
    InputError for no frame or no face. What cannot be measured is None, and `notes` says why.
    """
    notes: list[str] = []
    sounds = _sounds(samples)
    mesh = mesh or FaceMesh()
    follower, distances = FaceFollower(mesh, fps), SyncDistanceMeter(_network(sounds, notes), sounds, fps, seconds)
    gap, meter, size = measure(frames, fps, mesh, lambda block, main: distances.push(block, follower.push(block, main)))
    heard = _heard(sounds, phones, len(gap) / fps, notes)
    openings = [_opening(h, sound, len(gap) / fps) for h, sound in zip(heard, sounds, strict=True)]
    drift, found = meter.score(), speakers(distances.faces, sounds, fps, openings)
    out: dict[str, Any] = {
        "frames": len(gap), "fps": fps, "video_s": len(gap) / fps, "width": size[0], "height": size[1],
        "face_found": float(np.mean(~np.isnan(gap))), "sync": None, "silence": None, "closure": None, "syncnet": None,
        "drift": drift.to_dict() if drift else None, "notes": notes, "faces": as_json(distances.faces, found, fps),
        "speaker": found.speaker, "segments": [asdict(s) for s in found.segments],
    }
    if seconds is not None and len(gap) > seconds * fps and sounds:
        notes.append(f"faces: judged by the first {seconds:g} s; of the whole video with --seconds 0")
    _add_main(out, gap, distances.faces, found, sounds, heard, rest_gap)
    return out


def _sounds(samples: np.ndarray | Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The sounds as a list; those with nothing in them stay in their place, unless all are such."""
    given = [] if samples is None else [samples] if isinstance(samples, np.ndarray) else list(samples)
    return given if any(_audible(s) for s in given) else []


def _audible(samples: np.ndarray) -> bool:
    return len(samples) > 0 and float(np.abs(samples).max()) >= 1e-5


def _network(sounds: Sequence[np.ndarray], notes: list[str]) -> SyncNet | None:
    """SyncNet where there is something to hear; a clone without weights says so in a note."""
    try:
        return load_syncnet() if sounds else None
    except InputError as error:
        notes.append(f"syncnet: {error}")
        return None


def _add_main(
    out: dict[str, Any], gap: np.ndarray, faces: Sequence[FaceDistances], found: Speakers, sounds: Sequence[np.ndarray],
    heard: Sequence[PhonesByRecogniser], rest_gap: float | None,
) -> None:
    """Measures of the leading face and its sound."""
    fps, notes = out["fps"], out["notes"]
    main = max(faces, key=lambda face: (len(face.gap), face.area))  # the leading one is the largest
    own = found.sound_of[main.number] or 0
    if not sounds or not _audible(sounds[own]):
        notes.append("sync: the video has no sound; give one with --audio")
        return
    samples = sounds[own]
    out["audio_s"] = len(samples) / 16000
    silence = silence_score(gap, samples, fps, rest_gap)
    out["silence"] = asdict(silence) if silence else None
    if silence is None:
        notes.append("silence: the sound has no pause of 0.3 s")
    if len(gap) < LEAST_S * fps:
        notes.append(f"sync: shorter than {LEAST_S:g} s")
        return
    _add_sync(out, gap, samples, fps, heard[own])
    out["syncnet"] = _syncnet(main, own)
    if out["syncnet"] is None and not any(note.startswith("syncnet: ") for note in notes):
        notes.append("syncnet: no face, or no sound, at the beginning")


def _syncnet(face: FaceDistances, sound: int) -> dict[str, Any] | None:
    """Sync-C, Sync-D and offset of the first seconds, by windows and sounds of that stretch alone."""
    if not face.at or face.at[0] > FPS:
        return None
    at = np.array(face.at)
    inside = at < face.at[0] + SYNCNET_S * FPS - FRAMES + 1
    lags = at[inside][:, None] + np.arange(-REACH, REACH + 1)
    rows = np.where((lags >= at[0]) & (lags <= at[inside][-1]), face.distances[inside][:, sound], np.nan)
    reach = min(REACH, len(rows) - 1)
    if reach < 1:
        return None
    curve = np.nanmean(rows[:, REACH - reach : REACH + reach + 1], 0)
    if np.isnan(curve).any():
        return None
    return asdict(score_of(curve)) | {"seconds": (len(rows) + FRAMES - 1) / FPS}


def measure(
    frames: Iterable[np.ndarray], fps: float, mesh: FaceMesh, watch: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> tuple[np.ndarray, DriftMeter, tuple[int, int]]:
    """Lip gap (T,), drift meter and (width, height) of a video, in one pass; `watch` sees each block and its landmarks."""
    gaps: list[np.ndarray] = []
    meter, hint, size = DriftMeter(fps=fps), None, (0, 0)
    for block in blocks(frames):
        landmarks = mesh.landmarks_batch(block, hint)
        hint = landmarks[-1]
        gaps.append(lip_gap(landmarks))
        meter.push(block, landmarks)
        if watch is not None:
            watch(block, landmarks)
        size = block.shape[2], block.shape[1]
    if not gaps:
        raise InputError("video", "0 frames", "holds no picture", "give a video file with a picture track")
    gap = np.concatenate(gaps)
    if np.isnan(gap).all():
        raise InputError("video", f"{len(gap)} frames", "no face found in any of them", "give a video of a face that looks at the camera")
    return gap, meter, size


def blocks(frames: Iterable[np.ndarray], size: int = BLOCK) -> Iterator[np.ndarray]:
    """(T, H, W, 3) arrays of up to `size` frames."""
    kept: list[np.ndarray] = []
    for frame in frames:
        kept.append(frame)
        if len(kept) == size:
            yield np.stack(kept)
            kept = []
    if kept:
        yield np.stack(kept)


def sync_of(gap: np.ndarray, phones: Sequence[Phone], samples: np.ndarray, fps: float) -> dict[str, Any]:
    """Sync score and the margin over the same sound at wrong times, as JSON types."""
    curve = opening_curve(phones, samples, len(gap), fps)
    shifted = shifted_curves(curve, fps)
    margin = margin_score(gap, curve, shifted, fps) if shifted else None
    against = asdict(margin) | {"wrong": list(margin.wrong)} if margin else None
    return asdict(sync_score(gap, curve, fps)) | {"against_shifted": against}


def _heard(sounds: Sequence[np.ndarray], phones: Sequence[Phone] | None, video_s: float, notes: list[str]) -> list[PhonesByRecogniser]:
    """Phones of each sound by who heard them, the surest first; none for a video too short to distances."""
    if phones is not None:
        return [{"known": phones}] + [{} for _ in sounds[1:]]
    if sounds and not installed("pocketsphinx"):
        notes.append("sync: pocketsphinx is not installed; pip install pocketsphinx")
    if video_s < LEAST_S:
        return [{} for _ in sounds]
    return [{r: recognise_phones(sound, r) for r in RECOGNISERS if installed(r)} if _audible(sound) else {} for sound in sounds]


def _opening(heard: PhonesByRecogniser, samples: np.ndarray, video_s: float) -> np.ndarray | None:
    """(T,) opening at SyncNet's 25 frames a second; None without phones."""
    if not heard:
        return None
    return opening_curve(next(iter(heard.values())), samples, int(min(video_s + 1, len(samples) / 16000) * FPS), FPS)


def _add_sync(out: dict[str, Any], gap: np.ndarray, samples: np.ndarray, fps: float, heard: PhonesByRecogniser) -> None:
    if not heard:
        return
    first = next(iter(heard))
    out["sync"] = {"recogniser": first} | sync_of(gap, heard[first], samples, fps)
    for name in list(heard)[1:]:
        out[f"sync_{name}"] = {"recogniser": name} | sync_of(gap, heard[name], samples, fps)
    closure = closure_score(gap, heard[first], fps)
    out["closure"] = asdict(closure) if closure else None
