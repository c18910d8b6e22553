"""First sound pushed while idle to the first moving lip handed out, without a network: speech in a burst, and at the pace it is spoken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._common import Result, demo_portrait, load, result, say
from benchmarks._live.mouths import first_move, mouth_box, mouths_of
from benchmarks._live.voices import RATE, phrase
from tm_core import talk
from tm_core.live.avatar import AvatarOptions, LiveAvatar
from tm_core.live.pacing import Pacer
from tm_core.media.image_io import open_image

SIZE, TRIALS = 512, 20
BARS = {"in a burst": (0.35, 0.5), "at the pace of speech": (0.45, 0.6)}  # seconds: median, 95th percentile
IDLE, SPOKEN, QUIET = 40, 50, 25  # frames before the sound, after it, and of listening at the end
PIECE_S = 0.02
LONGEST_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Seconds from the first sound pushed: to the first pair of speech, and to the first frame whose mouth moves; pairs held meanwhile."""

    sound_s: float
    lip_s: float | None
    held: int
    pairs: int


def latency_rows(weights: Path | None, device: str, trials: int = TRIALS, size: int = SIZE) -> list[Result]:
    """Percentiles of both ways of pushing."""
    model = load(weights, device)
    portrait = talk.prepare_portrait(open_image(demo_portrait()), model.config)
    rows = [result("latency: picture, trials of each", f"{size} px, {trials}", "")]
    with LiveAvatar(model, portrait, AvatarOptions(size=size)) as avatar:
        avatar.wait_ready()
        for way, (middle, late) in BARS.items():
            found = [tried(avatar, burst if way == "in a burst" else paced) for _ in range(trials)]
            rows += _rows(way, found, middle, late)
    return rows


def _rows(way: str, found: list[Answered], middle: float, late: float) -> list[Result]:
    sound, lip = [f.sound_s for f in found], [f.lip_s for f in found if f.lip_s is not None]
    p50, p95 = (float(np.percentile(sound, q)) for q in (50, 95))
    share = sum(f.held for f in found) / max(1, sum(f.pairs for f in found))
    say(f"  {way}: {', '.join(f'{s:.2f}' for s in sound)} s")
    lips = [float(np.percentile(lip, q)) for q in (50, 95)] if lip else [float("nan")] * 2
    return [
        result(f"{way}: first sound pushed to first lip of it handed out, p50", p50, "s", f"<= {middle:g} s", p50 <= middle),
        result(f"{way}: the same, p95", p95, "s", f"<= {late:g} s", p95 <= late),
        result(f"{way}: to a mouth whose pixels move, p50", lips[0], "s"),
        result(f"{way}: the same, p95", lips[1], "s"),
        result(f"{way}: trials in which the mouth moved", len(lip), f"of {len(found)}"),
        result(f"{way}: pairs held", share, "share")]


def burst() -> Iterator[tuple[float, np.ndarray | None]]:
    """What is pushed, and when: all of it, then the end (None)."""
    yield 0.0, phrase(1.6)
    yield 0.0, None


def paced() -> Iterator[tuple[float, np.ndarray | None]]:
    """The same as it is spoken."""
    whole, size = phrase(1.6), round(PIECE_S * RATE)
    for i, begin in enumerate(range(0, len(whole), size)):
        yield i * PIECE_S, whole[begin : begin + size]
    yield len(whole) / RATE, None


def tried(avatar: LiveAvatar, pushed: Callable[[], Iterator[tuple[float, np.ndarray | None]]]) -> Answered:
    """One answer: idle, the sound, then silence again."""
    pacer, frames, times, sounds, waiting = Pacer(avatar.fps), [], [], [], pushed()
    held_before, began = avatar.counts.held, None
    due = next(waiting)
    until = time.monotonic() + LONGEST_S
    next_frame = time.monotonic() + pacer.wait_s(time.monotonic())
    spread = float(np.random.default_rng(avatar.counts.pairs).uniform(0, 1 / avatar.fps))  # sound comes at any time between two frames
    while len(frames) < IDLE + SPOKEN or any(sounds[-QUIET:]):
        now = time.monotonic()
        if began is None and len(frames) >= IDLE and now >= times[-1] + spread:
            began = now
        while began is not None and due is not None and now >= began + due[0]:
            if due[1] is None:
                avatar.end_of_speech()
            else:
                avatar.push_audio(due[1], RATE)
            due = next(waiting, None)  # type: ignore[assignment]
        if now >= next_frame:
            pair = avatar.take()
            frames.append(pair.frame)
            times.append(time.monotonic())
            sounds.append(pair.answer is not None)
            next_frame = now + pacer.wait_s(time.monotonic())
        if now > until:
            break
        time.sleep(0.001)
    assert began is not None
    first = sounds.index(True) if True in sounds else len(sounds) - 1
    before = sum(t <= began for t in times)
    moved = first_move(mouths_of(frames, mouth_box(avatar)), before)
    return Answered(
        sound_s=times[first] - began, lip_s=None if moved is None else times[moved] - began,
        held=avatar.counts.held - held_before, pairs=len(frames))
