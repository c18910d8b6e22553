"""The paper's table 1 at tiny scale: chunks of 7 and 3 latents, 4 and 2 steps, on held-out identities and voices.

One set of weights serves every row. Each clip is compared with the one the training data's generator draws of the
same portrait and sound; that clip (drawn again with other head motion and blinks: as near as the Frechet distance
can come), the clip redrawn by the autoencoder and the still portrait are rows for reference. `--seconds` sets the
length of a clip; the table is written to docs/table1.md, or table1.md in the folder of `--out`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks._common import ROOT, Result, load, result, say, stream_of, variant
from benchmarks._corpus import Face, Sound, held_faces, held_sounds
from benchmarks._judges import FRECHET_NAME, clip_features, distance, mean_sync, sync_of
from benchmarks._sheet import markdown_table, number
from benchmarks._truth import Seen, corpus_folder, look_at, still_clip, true_clip, waveform
from tm_core import talk
from tm_core.cli.bench import commit, machine
from tm_core.families.settings import noise_schedule
from tm_core.metrics.lip_sync import opening_curve, sync_score
from tm_core.metrics.syncnet import SyncNetScore
from tm_core.streaming.metrics import StreamMetrics, percentile
from tm_core.streaming.workers import to_uint8
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import TalkingModel

CLIPS, SECONDS = 10, 10.0
HEADER = ("what", "Frechet", "Sync-C", "Sync-D", "lip r", "share", "chunk (s)", "time per chunk (s)", "time per second of video (s)")
CELLS = ((7, 4), (7, 2), (3, 4), (3, 2), (3, 1))  # chunk latents, steps: the paper's order, then one step


@dataclass(frozen=True, kw_only=True)
class Case:
    """A held-out portrait, a held-out voice and the opening the sound calls for."""

    index: int
    face: Face
    sound: Sound
    frames: int
    opening: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: means over the cases; times where something was generated."""

    name: str
    frechet: float
    sync_c: float
    sync_d: float
    lip_r: float
    chunk_s: float | None = None  # duration of a chunk
    ttbc_s: float | None = None  # time between chunks, median
    work_s: float | None = None  # denoising and decoding of a chunk, mean
    rtf: float | None = None  # seconds of work per second of video


@dataclass(kw_only=True)
class Tally:
    """What is kept of a row's clips: never the frames."""

    features: list[np.ndarray] = field(default_factory=list)
    nets: list[SyncNetScore | None] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def add(self, case: Case, seen: Seen, fps: float) -> None:
        """Measure one clip."""
        self.features.append(clip_features(seen))
        self.nets.append(sync_of(seen, case.sound.samples, fps))
        self.peaks.append(sync_score(seen.gap, case.opening, fps).peak_r)

    def row(self, name: str, true: Tally, **times: float) -> Row:
        """The means, against the true clips."""
        sync_c, sync_d = mean_sync(self.nets)
        return Row(
            name=name, frechet=distance(self.features, true.features), sync_c=sync_c, sync_d=sync_d, lip_r=median(self.peaks), **times)


@dataclass(kw_only=True)
class Clock:
    """Times of several streams together."""

    between: array[float] = field(default_factory=lambda: array("d"))
    work_s: float = 0.0
    elapsed_s: float = 0.0
    chunks: int = 0
    video_s: float = 0.0
    chunk_s: float = 0.0

    def add(self, metrics: StreamMetrics) -> None:
        """A stream that has ended."""
        self.between.extend(metrics.ttbc_s)
        self.work_s += metrics.denoise_s + metrics.decode_s
        self.elapsed_s += metrics.elapsed_s
        self.chunks += metrics.chunks
        self.video_s += metrics.video_s
        self.chunk_s = metrics.chunk_s

    def times(self) -> dict[str, float]:
        """A row's times."""
        return {
            "chunk_s": self.chunk_s, "ttbc_s": percentile(self.between, 0.5), "work_s": self.work_s / max(self.chunks, 1),
            "rtf": self.elapsed_s / max(self.video_s, 1e-9)}


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """All cells and the three references; InputError without the corpora."""
    model = load(weights, device)
    fps, side = float(model.config.fps), model.config.width
    cases = _cases(model, seconds or SECONDS)
    true = _tally("the generator's clips", cases, lambda c: true_clip(c.face, c.sound, c.frames, fps, side), fps)
    again = _tally("the same, moving otherwise", cases, lambda c: true_clip(c.face, c.sound, c.frames, fps, side, seed=1), fps)
    redrawn = _tally("the same, redrawn by the autoencoder", cases, lambda c: _redrawn(model, c, fps, side), fps)
    still = _tally("still portraits", cases, lambda c: still_clip(c.face, c.frames, side), fps)
    rows = [again.row("generator's clip, other head motion", true), redrawn.row("generator's clip, redrawn by the autoencoder", true),
            still.row("still portrait", true)]
    rows += [_cell(model, cases, chunk, steps, true) for chunk, steps in CELLS]
    path = (out or ROOT / "docs") / "table1.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table(rows, median(true.peaks), len(cases), seconds or SECONDS, f"{machine()}; commit {commit()}"), encoding="utf-8")
    say(f"table: {path}")
    return [r for row in rows for r in _results(row, median(true.peaks))]


def _cases(model: TalkingModel, seconds: float) -> list[Case]:
    faces, sounds = held_faces(corpus_folder()), held_sounds(corpus_folder(), CLIPS, seconds)
    cases = []
    for i, sound in enumerate(sounds):
        frames = talk.encode_audio(waveform(sound), model.config).num_frames
        opening = opening_curve(sound.phones, sound.samples, frames, float(model.config.fps))
        cases.append(Case(index=i, face=faces[i % len(faces)], sound=sound, frames=frames, opening=opening))
    return cases


def _tally(what: str, cases: Iterable[Case], make: Callable[[Case], np.ndarray], fps: float) -> Tally:
    say(what)
    tally = Tally()
    for case in cases:
        tally.add(case, look_at(make(case)), fps)
    return tally


@torch.inference_mode()
def _redrawn(model: TalkingModel, case: Case, fps: float, side: int) -> np.ndarray:
    """The generator's clip, encoded and decoded: the best that any latents could do."""
    vae = model.vae
    assert isinstance(vae, TinyVAE)
    clip = true_clip(case.face, case.sound, case.frames, fps, side)
    whole = np.concatenate([clip, np.repeat(clip[-1:], -(len(clip) - 1) % 4, 0)])  # 1 + 4k frames
    frames, portrait = (torch.from_numpy(f).permute(0, 3, 1, 2).float() / 255 for f in (whole, still_clip(case.face, 1, side)))
    made = vae.decode_clip(vae.encode_clip(frames[None]), portrait).frames[0]
    return to_uint8(made)[-len(whole) :][: len(clip)]


def _cell(model: TalkingModel, cases: list[Case], chunk: int, steps: int, true: Tally) -> Row:
    sigmas = noise_schedule(model.config.sampler, steps).sigmas
    cell, clock = variant(model, chunk_latents=chunk, sigmas=sigmas), Clock()

    def generate(case: Case) -> np.ndarray:
        stream = stream_of(cell, waveform(case.sound), case.face.path, seed=case.index)
        metrics = stream.new_metrics()
        video = np.concatenate([c.frames for c in stream.chunks(metrics=metrics)])  # measured when nothing computes any more
        clock.add(metrics)
        return video

    name = f"chunk {chunk}, {steps} step{'s' if steps > 1 else ''}"
    return _tally(name, cases, generate, float(model.config.fps)).row(name, true, **clock.times())


def _results(row: Row, true_r: float) -> list[Result]:
    found = [
        result(f"{row.name}: Frechet distance", row.frechet, ""), result(f"{row.name}: Sync-C", row.sync_c, ""),
        result(f"{row.name}: Sync-D", row.sync_d, ""), result(f"{row.name}: lip r", row.lip_r, ""),
        result(f"{row.name}: lip r of the generator's clip's", row.lip_r / max(true_r, 1e-9), "share")]
    if row.ttbc_s is not None:
        found += [
            result(f"{row.name}: time between chunks, p50", row.ttbc_s, f"s (a chunk is {row.chunk_s:g} s)"),
            result(f"{row.name}: denoising and decoding a chunk", float(row.work_s or 0), "s"),
            result(f"{row.name}: time per second of video", float(row.rtf or 0), "s")]
    return found


def table(rows: list[Row], true_r: float, clips: int, seconds: float, where: str) -> str:
    """The document: what was measured, the table, where."""
    lines = [
        "# Table 1 at tiny scale", "",
        f"{clips} clips of {seconds:g} s: held-out identities and voices, each against the clip that the training data's",
        "generator draws of the same portrait and sound. Written by `talking-machines bench table1`; the paper's table 1",
        "has the four rows of 4 and 2 steps for its 18 B model.", "",
        f"Frechet distance: {FRECHET_NAME}.",
        "Sync-C, Sync-D: SyncNet's architecture, our weights, comparable within this table only.",
        f"Lip r: median peak correlation of lip gap and phones, and its share of the generator's {true_r:.3f}; a still",
        "portrait's is chance. Time per chunk: p50 between chunks that leave the pipeline (denoising and decoding overlap).", "",
        *markdown_table(HEADER, [_cells(row, true_r) for row in rows]), "", where, ""]
    return "\n".join(lines)


def _cells(row: Row, true_r: float) -> list[str]:
    times = [number(t, 3) for t in (row.chunk_s, row.ttbc_s, row.rtf)]
    share = f"{row.lip_r / max(true_r, 1e-9):.2f}"
    return [row.name, number(row.frechet, 2), number(row.sync_c, 2), number(row.sync_d, 2), number(row.lip_r, 3), share, *times]
