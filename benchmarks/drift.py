"""Drift of a 30-minute stream, both kinds of cache: face, background and lip sync, last minute against first.

Some minutes are measured, the first and the last among them, and these all speak the same words, so that what
changes is the model's. The other minutes speak other held-out voices (without the corpora: all of them the bundled
recording). `--seconds` shortens the stream; of less than three minutes a third counts as a minute. A row of the
contact sheet is one cache mode, to be looked at: docs/drift.jpg, or drift.jpg in the folder of `--out`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks._common import ROOT, Reporter, Result, load, result, say, speech_of, stream_of, variant
from benchmarks._corpus import RATE, Sound, held_sounds
from benchmarks._judges import sync_of
from benchmarks._sheet import contact_sheet
from benchmarks._truth import corpus_folder, look_at
from tm_core.errors import InputError
from tm_core.media.audio_io import Waveform
from tm_core.metrics.drift import DriftMeter, DriftScore, Trend
from tm_core.metrics.lip_sync import opening_curve, sync_score
from tm_core.metrics.phones import recognise_phones
from tm_core.streaming.handles import DecodedStream
from tm_core.streaming.metrics import current_rss_mb
from tm_core.weights.loading import TalkingModel

SECONDS, MINUTE_S, MEASURED = 1800.0, 60.0, 6  # parts measured, the last one not counted
MODES = ("per_step", "clean_rerun")
MAX_CHANGE, MAX_FALL, SHEET = 0.05, 0.01, 10
VOICES = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`parts` stretches ("minutes") of `part_s` seconds, of which some are measured."""

    part_s: float
    parts: int

    @staticmethod
    def of(total_s: float) -> Plan:
        """Minutes, or thirds of a short stream."""
        part_s = min(MINUTE_S, total_s / 3)
        return Plan(part_s=part_s, parts=max(2, round(total_s / part_s)))

    @property
    def measured(self) -> tuple[int, ...]:
        """The first part, the last one and some between."""
        return tuple(sorted({*range(0, self.parts, max(1, self.parts // MEASURED)), self.parts - 1}))

    def frames(self, part: int, fps: float) -> range:
        """Video frames of a part."""
        return range(round(part * self.part_s * fps), round((part + 1) * self.part_s * fps))


@dataclass(frozen=True, kw_only=True)
class Minute:
    """Lip sync of one measured part."""

    start_s: float
    lip_r: float
    sync_c: float


@dataclass(kw_only=True)
class Watch:
    """One pass over a stream: measures the planned parts as they end, keeps a few pictures."""

    plan: Plan
    sound: Sound  # of the measured parts
    stream: DecodedStream
    meter: DriftMeter
    name: str
    minutes: list[Minute] = field(default_factory=list)
    sheet: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def run(self) -> DriftScore:
        """Pull the stream; InputError if it shows no face."""
        kept: list[np.ndarray] = []
        for part, frames, ends in self._pieces():
            if part in self.plan.measured:
                kept.append(frames)
            else:
                self.meter.skip(len(frames))
            if ends and kept:
                self._measure(part, np.concatenate(kept))
                kept = []
        score = self.meter.score()
        if score is None:
            raise InputError("weights", self.name, "its video shows no face", "train the model further")
        return score

    def _pieces(self) -> Iterator[tuple[int, np.ndarray, bool]]:
        """(part, frames of it, whether it ends with them)."""
        fps, part = float(self.stream.meta.fps), 0
        tell, last = Reporter(total_s=self.stream.meta.duration_s), self.plan.parts - 1
        for chunk in self.stream:
            self._picture(chunk.pts, chunk.frames)
            frames, first = chunk.frames, chunk.pts
            while len(frames):
                stop = self.stream.meta.total_frames if part == last else self.plan.frames(part, fps).stop
                piece, frames = frames[: stop - first], frames[stop - first :]
                first += len(piece)
                yield part, piece, first == stop
                part += first == stop
            tell(first / fps)

    def _picture(self, pts: int, frames: np.ndarray) -> None:
        meta = self.stream.meta
        for i in range(len(self.sheet), SHEET):
            wanted = round(i * (meta.total_frames - 1) / (SHEET - 1))
            if wanted >= pts + len(frames):
                break
            self.sheet.append((f"{self.name} {float(wanted / meta.fps):.0f} s", frames[wanted - pts].copy()))

    def _measure(self, part: int, frames: np.ndarray) -> None:
        fps, seen = float(self.stream.meta.fps), look_at(frames)
        self.meter.push(seen.frames, seen.landmarks)
        opening = opening_curve(self.sound.phones, self.sound.samples, len(frames), fps)
        net = sync_of(seen, self.sound.samples, fps)
        sync_c = math.nan if net is None else net.sync_c
        minute = Minute(start_s=part * self.plan.part_s, lip_r=sync_score(seen.gap, opening, fps).peak_r, sync_c=sync_c)
        self.minutes.append(minute)
        say(f"  {self.name}: from {minute.start_s:.0f} s lip r {minute.lip_r:.3f}, Sync-C {minute.sync_c:.2f}")


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """Both cache modes, one after the other, on the bundled portrait."""
    plan, model = Plan.of(seconds or SECONDS), load(weights, device)
    sounds = voices(plan.part_s)
    found = [result("stream", plan.parts * plan.part_s, "s"), result("measured parts", len(plan.measured), f"of {plan.part_s:g} s")]
    sheet: list[tuple[str, np.ndarray]] = []
    for mode in MODES:
        results, pictures = _mode(model, mode, plan, sounds)
        found, sheet = found + results, sheet + pictures
    path = contact_sheet(sheet, (out or ROOT / "docs") / "drift.jpg", columns=SHEET)
    say(f"contact sheet: {path}")
    return found


def voices(part_s: float) -> list[Sound]:
    """What the measured parts say, then what the others say."""
    try:
        held = held_sounds(corpus_folder(), VOICES, part_s)
    except InputError:
        say("no corpora: the bundled recording speaks all the time")
        samples = speech_of(part_s).samples
        return [Sound(name="bundled", real=True, samples=samples, phones=recognise_phones(samples))]
    return sorted(held, key=lambda s: not s.real)


def spoken(plan: Plan, sounds: list[Sound]) -> Waveform:
    """The stream's whole sound: the first voice in measured parts, the others in turn elsewhere."""
    others, length = cycle(sounds[1:] or sounds), round(plan.part_s * RATE)
    parts = [sounds[0] if i in plan.measured else next(others) for i in range(plan.parts)]
    return Waveform(samples=np.concatenate([np.resize(s.samples, length) for s in parts]).astype(np.float32))


def _mode(model: TalkingModel, mode: str, plan: Plan, sounds: list[Sound]) -> tuple[list[Result], list[tuple[str, np.ndarray]]]:
    say(f"{mode}: a stream of {plan.parts * plan.part_s:g} s")
    stream = stream_of(variant(model, cache_mode=mode), spoken(plan, sounds))
    watch = Watch(plan=plan, sound=sounds[0], stream=stream, meter=DriftMeter(fps=float(stream.meta.fps)), name=mode)
    score = watch.run()
    stream.latents.release()
    say(f"  resident memory {current_rss_mb():.0f} MB")
    return [*_face(mode, score), *_sync(mode, watch.minutes)], watch.sheet


def _face(mode: str, score: DriftScore) -> list[Result]:
    trends = {
        "sharpness of the face": score.sharpness, "red of the face": score.red, "green of the face": score.green,
        "blue of the face": score.blue, "contrast of the face": score.contrast,
        "identity (correlation of the upper face with frame 0)": score.identity, "background (PSNR to frame 0)": score.background}
    return [
        *(_within(f"{mode}: {what}", trend) for what, trend in trends.items()),
        result(f"{mode}: identity in the last minute", score.identity.last, "correlation"),
        result(f"{mode}: colour shift of the face", score.colour_shift, "delta E"),
        result(f"{mode}: change of the face's shape", score.shape_shift, "of its height"),
        result(f"{mode}: background against frame 0, worst", score.background_db, "dB"),
    ]


def _within(what: str, trend: Trend) -> Result:
    return result(f"{what}, last minute over first", trend.ratio, "", f"within {MAX_CHANGE:.0%}", abs(trend.ratio - 1) <= MAX_CHANGE)


def _sync(mode: str, minutes: list[Minute]) -> list[Result]:
    first, last = minutes[0], minutes[-1]
    fall = first.lip_r - last.lip_r
    return [
        result(f"{mode}: lip r, minute by minute", " ".join(f"{m.lip_r:.2f}" for m in minutes), ""),
        result(f"{mode}: lip r, first minute minus last", fall, "", f"<= {MAX_FALL}", fall <= MAX_FALL),
        result(f"{mode}: Sync-C, minute by minute", " ".join(f"{m.sync_c:.2f}" for m in minutes), ""),
        result(f"{mode}: Sync-C, last minute over first", last.sync_c / first.sync_c if first.sync_c else math.nan, ""),
    ]
