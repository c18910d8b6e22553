"""Chunk length against look-ahead: lip sync, closures and smoothness of the live avatar on held-out pairs of face and voice.

All of the speech is there when a pair begins, so a chunk sees exactly its look-ahead; nothing is timed. The table for docs/live.md
is said at the end, and written to `out`/look_ahead.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from benchmarks._common import Result, load, result, say
from benchmarks._corpus import RATE, Face, Sound, held_faces, held_sounds
from benchmarks._truth import corpus_folder, look_at, true_clip
from tm_core import talk
from tm_core.live.avatar import LOOK_AHEAD, AvatarOptions, LiveAvatar
from tm_core.media.image_io import open_image
from tm_core.metrics.lip_sync import ClosureMatch, closures_matched, lip_gap, opening_curve, sync_score
from tm_core.model.talking import TalkingModel
from tm_core.outputs import write_text

PAIRS, SECONDS, SIZE = 10, 8.0, 192
CHUNKS, AHEAD = (3, 2, 1), (2, 1, 0)
LATENT_S = 0.16
MIN_SHARE = 0.97  # of the lip r of the best, for the default
READY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Lips:
    """Of one pair: peak r and its lag, closures, and the lip gap's jerkiness over that of the generator's clip."""

    peak_r: float
    lag: int
    closures: ClosureMatch
    jerk: float


Table = dict[tuple[int, int], list[Lips]]


def look_ahead_rows(
    weights: Path | None, device: str, *, pairs: int = PAIRS, seconds: float = SECONDS, out: Path | None = None,
    points: Sequence[tuple[int, int]] | None = None,
) -> list[Result]:
    """The table; `points`: only these (chunk, look-ahead)."""
    faces, sounds = held_faces(corpus_folder()), held_sounds(corpus_folder(), pairs, seconds)
    model = load(weights, device)
    table: Table = {point: [] for point in points or [(c, a) for c in CHUNKS for a in AHEAD]}
    for number, sound in enumerate(sounds):
        face = faces[number % len(faces)]
        frames = round(seconds * float(model.config.fps))
        truth = look_at(true_clip(face, sound, frames, float(model.config.fps), model.config.width)).gap
        for (chunk, ahead), found in table.items():
            found.append(_lips(model, face, sound, truth, AvatarOptions(
                size=SIZE, chunk_latents=chunk, look_ahead=ahead, blinks=False, seed=number)))
        say(f"  {face.name} x {sound.name}: " + ", ".join(f"{c}/{a} {f[-1].peak_r:.2f}" for (c, a), f in table.items()))
    text = as_markdown(table)
    say(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "look_ahead.md", text, "--out")
    return _rows(table)


def _lips(model: TalkingModel, face: Face, sound: Sound, truth: np.ndarray, options: AvatarOptions) -> Lips:
    fps, (frames, begun) = float(model.config.fps), spoken(model, face, sound, options)
    gap = lip_gap(talk.face_mesh().landmarks_batch(np.stack(frames)))[begun : begun + len(truth)]
    score = sync_score(gap, opening_curve(sound.phones, sound.samples, len(gap), fps), fps)
    return Lips(
        peak_r=score.peak_r, lag=score.lag_frames, closures=closures_matched(gap, truth[: len(gap)], sound.phones, fps),
        jerk=jerkiness(gap) / jerkiness(truth))


def spoken(model: TalkingModel, face: Face, sound: Sound, options: AvatarOptions) -> tuple[list[np.ndarray], int]:
    """Frames of a session that says a sound, each taken as soon as it is ready, and the first one of speech."""
    frames: list[np.ndarray] = []
    begun = ended = -1
    with LiveAvatar(model, talk.prepare_portrait(open_image(face.path), model.config), options) as avatar:
        avatar.push_audio(sound.samples, RATE)
        avatar.end_of_speech()
        while ended < 0:
            until = time.monotonic() + READY_S
            while avatar.lead_s == 0 and time.monotonic() < until:
                time.sleep(0.002)
            pair = avatar.take()
            if begun < 0 and pair.answer is not None:
                begun = len(frames)
            if begun >= 0 and pair.answer is None:
                ended = len(frames)
            frames.append(pair.frame)
    return frames, begun


def jerkiness(gap: np.ndarray) -> float:
    """How much the speed of the lips changes from frame to frame, over how much they move at all."""
    return float(np.nanstd(np.diff(gap, 2)) / max(1e-9, np.nanstd(gap)))


def _closed(found: Sequence[Lips]) -> float:
    return sum(f.closures.matched for f in found) / max(1, sum(f.closures.count for f in found))


def as_markdown(table: Table) -> str:
    """For docs/live.md."""
    lines = [
        "| chunk, look-ahead (latents) | sound needed before a chunk's first frame | peak r, median (least) | lag, frames | p, b, m closed "
        "| jerk over the generator's |", "|---|---|---|---|---|---|"]
    for (chunk, ahead), found in table.items():
        r = [f.peak_r for f in found]
        lines.append(
            f"| {chunk}, {ahead} | {(chunk + ahead) * LATENT_S:.2f} s | {median(r):.3f} ({min(r):.2f}) | {fmean(f.lag for f in found):.1f} "
            f"| {_closed(found):.2f} | {median(f.jerk for f in found):.2f} |")
    return "\n".join(lines) + "\n"


def _rows(table: Table) -> list[Result]:
    rows = []
    for (chunk, ahead), found in table.items():
        what = f"chunk {chunk}, look-ahead {ahead}"
        rows += [
            result(f"{what}: peak r, median of {len(found)} pairs", median(f.peak_r for f in found), ""),
            result(f"{what}: p, b, m closed", _closed(found), "share"),
            result(f"{what}: jerk over the generator's, median", median(f.jerk for f in found), "times")]
    default, soonest = (AvatarOptions().chunk_latents, LOOK_AHEAD), (AvatarOptions().chunk_latents, 0)
    best = max(median(f.peak_r for f in found) for found in table.values())
    for point, name in ((default, "the default"), (soonest, "the default at the pace of speech, when nothing is ahead")):
        if point in table:
            share = median(f.peak_r for f in table[point]) / best
            rows.append(result(f"{name}: share of the best peak r", share, "", f">= {MIN_SHARE}", share >= MIN_SHARE))
    return rows
