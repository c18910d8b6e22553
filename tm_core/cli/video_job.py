"""`talking-machines animate`: files in, an mp4 and a report out, with a progress bar.

The mp4 appears under its name when it is whole. Non-goals: the work itself (talk), the file format (media).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import talk
from ..compose.canvas import FrameStream
from ..media.video_io import VideoWriter, written_size
from ..options import AnimateOptions
from ..outputs import write_text
from ..streaming.metrics import StreamMetrics
from ..streaming.workers import few_threads
from ..talk import Running
from ..weights.loading import TalkingModel, load_model

LINE_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `animate` is to do; `started` is monotonic time, from which the first frame is timed."""

    image: Path
    audio: Path
    out: Path
    options: AnimateOptions
    mask: Path | None
    running: Running
    report: Path | None
    weights: Path | None
    device: str
    quiet: bool
    started: float


def run_job(job: Job) -> dict[str, Any]:
    """Make the video; the report. InputError before any work where the inputs cannot be used; argument_checks comes first."""
    with few_threads():  # the workers have as many as there are
        return _run(job)


def _run(job: Job) -> dict[str, Any]:
    device = talk.parse_device("--device", job.device)
    if job.running.decode_device is not None:
        talk.parse_device("--decode-device", job.running.decode_device)
    model = load_model(job.weights, device=device, dtype=torch.float32)
    frames = talk.animate(job.image, job.audio, model=model, options=job.options, mask=job.mask, running=job.running)
    metrics = frames.new_metrics(started=job.started)
    write_video(frames, job.out, metrics, quiet=job.quiet)
    report = make_report(job, model, frames, metrics)
    if job.report is not None:
        write_report(job.report, report)
    return report


def write_video(frames: FrameStream, out: Path, metrics: StreamMetrics, *, quiet: bool) -> None:
    """Drain a stream into an mp4, a chunk in memory at a time."""
    meta = frames.meta
    with (
        VideoWriter(out, meta.width, meta.height, meta.fps, audio=meta.audio) as writer,
        _bar(meta.total_frames, quiet) as advance,
        closing(frames.chunks(metrics=metrics)) as chunks,  # both workers end before the file is closed
    ):
        for chunk in chunks:
            writer.write(chunk.frames)
            advance(len(chunk.frames))
            del chunk  # before the next one is made


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A callable that is told of new frames: a bar on a terminal, elsewhere a line every ten seconds."""
    if quiet:
        yield lambda count: None
    elif not sys.stderr.isatty():
        yield _Lines(total).advance
    else:
        from .bar import progress_bar  # and rich, which nothing else here needs

        with progress_bar(total) as advance:
            yield advance


class _Lines:
    """Progress for logs."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._start = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told >= LINE_EVERY_S:
            self._told, rate = now, self._done / (now - self._start)
            left = (self._total - self._done) / rate
            sys.stderr.write(f"{self._done}/{self._total} frames, {rate:.1f} frames/s, {left:.0f} s to go\n")


def make_report(job: Job, model: TalkingModel, frames: FrameStream, metrics: StreamMetrics) -> dict[str, Any]:
    """The numbers of a finished job (design section 8)."""
    meta = frames.meta
    width, height = written_size(meta.width, meta.height)
    return {
        "out": str(job.out), "model": model.config.name, "width": width, "height": height, "fps": float(meta.fps),
        **metrics.report(), "audio_s": round(meta.audio_s or 0.0, 3), "seed": job.options.seed,
        "warnings": list(meta.warnings),
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    write_text(path, json.dumps(report, indent=2) + "\n", "--report")
