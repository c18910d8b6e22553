"""The lip-sync scorer on pictures of two held-out faces: offsets, who speaks, whose sound it is, who speaks when.

Two held-out people stand side by side, each drawn by the training data's generator while another held-out voice speaks, or
one of them listens. Everything runs as `talking-machines score` runs it, from the pixels on: faces are found and followed,
phones are heard by pocketsphinx where it is installed. Every sound is compared with the picture as it is, shifted by 1 to
15 frames both ways (cut from the longer sound, not rolled), and with the other person's lips. The corpora lie in build/corpus,
or where TM_CORPUS says; without them nothing is measured, and the only row says so. `--seconds` sets the length of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean

import numpy as np

from benchmarks._common import Result, result, say
from benchmarks._corpus import RATE, Face, Sound, held_faces, held_sounds
from benchmarks._truth import corpus_folder, true_clip
from tm_core import talk
from tm_core.errors import InputError
from tm_core.metrics.active_speaker import FaceScore, Speakers, speakers
from tm_core.metrics.face_distances import FaceDistances, SyncDistanceMeter
from tm_core.metrics.face_follower import FaceFollower
from tm_core.metrics.lip_sync import opening_curve
from tm_core.metrics.phones import installed, recognise_phones
from tm_core.metrics.syncnet import load_syncnet
from tm_core.metrics.video_score import blocks

PAIRS, LISTENERS, TALKS = 10, 5, 2
SECONDS, FPS, SIDE = 5.0, 25, 128
EDGE = 15  # frames of sound before and after a clip: what shifts are cut from
SHIFTS = 3  # of each face of each pair: 10 pairs of 2 faces see every shift from -15 to 15 twice
MIN_OFFSET, MIN_SPEAKER = 0.9, 0.95


@dataclass
class Tally:
    """What was found: offsets as (true, joined evidence, SyncNet alone), decisions, confidences."""

    offsets: list[tuple[int, int, int]] = field(default_factory=list)
    talking: list[bool] = field(default_factory=list)
    listening: list[bool] = field(default_factory=list)
    net_alone: list[bool] = field(default_factory=list)
    matched: list[bool] = field(default_factory=list)
    right: list[FaceScore] = field(default_factory=list)
    wrong: list[FaceScore] = field(default_factory=list)
    segments: list[float] = field(default_factory=list)
    unspoken: list[bool] = field(default_factory=list)


def run(*, seconds: float | None = None) -> list[Result]:
    """All figures; a single row without a bar where the corpora or SyncNet's weights are missing."""
    length = seconds or SECONDS
    try:
        load_syncnet()
        faces = held_faces(corpus_folder())
        sounds = held_sounds(corpus_folder(), PAIRS, length + 2 * EDGE / FPS)
    except InputError as error:
        return [result("scorer", "not measured", f"({error})")]
    tally, frames = Tally(), round(length * FPS)
    for i in range(PAIRS):
        _pair(tally, faces, sounds, i, frames)
        if i < LISTENERS:
            _listener(tally, faces, sounds, i, frames)
        if i < TALKS:
            _conversation(tally, faces, sounds, i, frames)
        say(f"pair {i + 1} of {PAIRS}: {tally_line(tally)}")
    return summary(tally, length, sum(s.real for s in sounds))


def tally_line(tally: Tally) -> str:
    """For whoever waits."""
    near = sum(abs(t - o) <= 1 for t, o, _ in tally.offsets)
    decided = tally.talking + tally.listening
    return f"offset right in {near} of {len(tally.offsets)}, speaker in {sum(decided)} of {len(decided)}"


# -- clips ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _clip(face: Face, index: int, frames: int) -> np.ndarray:
    """A face saying sound `index` (T, H, W, 3), without the frames of its edges."""
    sound = held_sounds(corpus_folder(), PAIRS, (frames + 2 * EDGE) / FPS)[index]
    return true_clip(face, sound, frames + 2 * EDGE, FPS, SIDE, seed=index)[EDGE : EDGE + frames]


def cut(sound: Sound, frames: int, late: int = 0) -> np.ndarray:
    """The sound of a clip, such that the picture is `late` frames late."""
    start = (EDGE + late) * RATE // FPS
    return sound.samples[start : start + frames * RATE // FPS]


def quiet(sound: Sound) -> Sound:
    """The same length of silence: what a listener hears from itself."""
    return replace(sound, samples=np.zeros_like(sound.samples), phones=[])


def part_of(sound: Sound, start_s: float, end_s: float) -> Sound:
    """The sound between two moments, silence elsewhere."""
    samples = np.zeros_like(sound.samples)
    inside = slice(round(start_s * RATE), round(end_s * RATE))
    samples[inside] = sound.samples[inside]
    return replace(sound, samples=samples, phones=[p for p in sound.phones if p.start >= start_s and p.end <= end_s])


# -- judging -------------------------------------------------------------------------------------------


def judged(frames: np.ndarray, sounds: Sequence[np.ndarray]) -> list[FaceDistances]:
    """The faces of a video, from left to right."""
    mesh = talk.face_mesh()
    follower, meter, hint = FaceFollower(mesh, FPS), SyncDistanceMeter(load_syncnet(), sounds, FPS), None
    for block in blocks(frames):
        main = mesh.landmarks_batch(block, hint)
        hint = main[-1]
        meter.push(block, follower.push(block, main))
    return sorted(meter.faces, key=lambda f: f.box[0])


def openings(sounds: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """What the lips should do, by the phones that are heard; None without pocketsphinx."""
    if not installed("pocketsphinx"):
        return [None] * len(sounds)
    return [opening_curve(recognise_phones(s), s, len(s) * FPS // RATE, FPS) for s in sounds]


def only(faces: Sequence[FaceDistances], chosen: Sequence[int]) -> list[FaceDistances]:
    """The faces as if only these sounds had been given."""
    return [
        FaceDistances(number=i, at=f.at, rows=[r[list(chosen)] for r in f.rows], gap=f.gap, boxes=f.boxes) for i, f in enumerate(faces)]


def _asked(
    faces: Sequence[FaceDistances], sounds: Sequence[np.ndarray], curves: Sequence[np.ndarray | None], chosen: Sequence[int],
) -> Speakers:
    """What `score` says of a video with these sounds."""
    return speakers(only(faces, chosen), [sounds[a] for a in chosen], FPS, [curves[a] for a in chosen])


def _pair(tally: Tally, faces: Sequence[Face], sounds: Sequence[Sound], i: int, frames: int) -> None:
    """Two talkers: each sound as it is, shifted, and both together."""
    who, shifts = [i, (i + 1) % PAIRS], shifts_of(i)
    video = np.concatenate([_clip(faces[k % len(faces)], k, frames) for k in who], 2)
    given = [cut(sounds[k], frames) for k in who] + [cut(sounds[k], frames, s) for k, own in zip(who, shifts, strict=True) for s in own]
    seen, curves = judged(video, given), openings(given)
    if len(seen) != 2:
        say(f"  {len(seen)} faces followed where there are 2")
    seen = seen[:2]
    for side in range(2):
        found = _asked(seen, given, curves, [side])
        tally.talking.append(len(seen) == 2 and found.speaker == side)
        net = _asked(seen, given, [None] * len(given), [side])
        tally.net_alone.append(_best(net) == side)
        for other, scores in enumerate(found.scores):
            if (score := scores[0]) is not None:
                (tally.right if other == side else tally.wrong).append(score)
        if len(seen) == 2:
            alone = speakers(only(seen[1 - side :][:1], [side]), [given[side]], FPS, [curves[side]])
            tally.unspoken.append(alone.speaker is not None)
        for a, late in [(side, 0), *((2 + SHIFTS * side + n, s) for n, s in enumerate(shifts[side]))]:
            tally.offsets.append((late, *_offsets(seen[side : side + 1], given[a], curves[a], a)))
    both = _asked(seen, given, curves, [0, 1])
    tally.matched.append(both.sound_of == [0, 1])


def shifts_of(pair: int) -> list[list[int]]:
    """Shifts of both faces of a pair: over all pairs every one from -15 to 15 but 0."""
    every = [s for s in range(-EDGE, EDGE + 1) if s]
    at = pair * 2 * SHIFTS
    chosen = [every[(at + n) * 7 % len(every)] for n in range(2 * SHIFTS)]  # 7 and 30 share no factor: none is left out
    return [chosen[:SHIFTS], chosen[SHIFTS:]]


def _offsets(face: Sequence[FaceDistances], sound: np.ndarray, curve: np.ndarray | None, a: int) -> tuple[int, int]:
    """Offset by all the evidence and by SyncNet alone; far off where there is none."""
    found = [speakers(only(face, [a]), [sound], FPS, [c]).scores for c in (curve, None)]
    joined, net = (s[0][0].offset_frames if s and s[0][0] else 99 for s in found)
    return joined, net


def _best(found: Speakers) -> int:
    """The surer face, whether sure enough or not."""
    return int(np.argmax([row[0].confidence if row[0] else -1.0 for row in found.scores])) if found.scores else -1


def _listener(tally: Tally, faces: Sequence[Face], sounds: Sequence[Sound], i: int, frames: int) -> None:
    """One talks and one listens: the talker on the left, then on the right."""
    talks, listens, side = faces[i % len(faces)], faces[(i + 3) % len(faces)], i % 2
    still = true_clip(listens, quiet(sounds[i]), frames + 2 * EDGE, FPS, SIDE, seed=100 + i)[EDGE : EDGE + frames]
    clips = [_clip(talks, i, frames), still]
    given = [cut(sounds[i], frames)]
    seen = judged(np.concatenate(clips if side == 0 else clips[::-1], 2), given)
    found = _asked(seen, given, openings(given), [0])
    tally.listening.append(len(seen) == 2 and found.speaker == side)


def _conversation(tally: Tally, faces: Sequence[Face], sounds: Sequence[Sound], i: int, frames: int) -> None:
    """The left one speaks in the first half, the right one in the second."""
    middle, end = (EDGE + frames / 2) / FPS, len(sounds[i].samples) / RATE
    turns = [part_of(sounds[i], 0.0, middle), part_of(sounds[(i + 4) % PAIRS], middle, end)]
    clips = [
        true_clip(faces[(i + k) % len(faces)], turn, frames + 2 * EDGE, FPS, SIDE, seed=200 + 2 * i + k)[EDGE : EDGE + frames]
        for k, turn in enumerate(turns)]
    mixed = [cut(turns[0], frames) + cut(turns[1], frames)]
    found = _asked(judged(np.concatenate(clips, 2), mixed), mixed, openings(mixed), [0])
    half = frames / FPS / 2
    right = sum(_shared(s.start_s, s.end_s, side * half, (side + 1) * half) for s in found.segments for side in range(2) if s.face == side)
    told = sum(s.end_s - s.start_s for s in found.segments)
    tally.segments.append(right / told if told else 0.0)


def _shared(a: float, b: float, low: float, high: float) -> float:
    return max(0.0, min(b, high) - max(a, low))


# -- figures -------------------------------------------------------------------------------------------


def summary(tally: Tally, length: float, real: int) -> list[Result]:
    """The figures of all clips, `real` of the voices being recordings of people."""
    near = fmean(abs(t - o) <= 1 for t, o, _ in tally.offsets)
    net = fmean(abs(t - o) <= 1 for t, _, o in tally.offsets)
    decided = tally.talking + tally.listening
    picked, count = fmean(decided), len(tally.matched) + len(tally.listening) + len(tally.segments)
    return [
        result("clips of two faces", count, f"of {length:g} s, {real} of {PAIRS} voices real"),
        result("offsets looked for (-15 to 15 frames)", len(tally.offsets), ""),
        result("offset right within a frame", near, "share", f">= {MIN_OFFSET}", near >= MIN_OFFSET),
        result("the same by SyncNet alone", net, "share"),
        result("clips in which one of two speaks", len(decided), ""),
        result("right speaker picked", picked, "share", f">= {MIN_SPEAKER}", picked >= MIN_SPEAKER),
        result("of these: the other speaks another text", fmean(tally.talking), "share"),
        result("of these: the other listens", fmean(tally.listening), "share"),
        result("the other speaks another text, surer face by SyncNet alone", fmean(tally.net_alone), "share"),
        result("two sounds given to the right faces", fmean(tally.matched), "share"),
        result("a face with another's sound taken to speak", fmean(tally.unspoken), "share"),
        result("time in a conversation told to the right face", fmean(tally.segments), "share"),
        result("Sync-C with the right sound, mean", fmean(s.sync_c for s in tally.right), ""),
        result("Sync-C with another's sound, mean", fmean(s.sync_c for s in tally.wrong), ""),
        result("confidence with the right sound, least", min(s.confidence for s in tally.right), ""),
        result("confidence with another's sound, greatest", max(s.confidence for s in tally.wrong), ""),
    ]
