"""`talking-machines animate`: files in, an mp4 and a report out, with a progress bar.

The mp4 appears under its name when it is whole. Non-goals: the work itself (app), the file format (media).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .. import app
from ..errors import InputError
from ..media.video_io import VideoWriter, check_output
from ..streaming.handles import FrameStream
from ..streaming.metrics import StreamMetrics
from ..weights.loading import TalkingModel, load_model


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options of `animate`; `started` is monotonic time, from which the first frame is timed."""

    image: Path
    audio: Path
    out: Path
    seed: int
    report: Path | None
    weights: Path | None
    device: str
    decode_device: str | None
    face: int | None
    mask: Path | None
    steps: int | None
    speaking: str
    queue_depth: int
    quiet: bool
    started: float


class _Rate(ProgressColumn):
    """Frames per second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "- frames/s", style="progress.data.speed")


def run_job(job: Job) -> dict[str, Any]:
    """Make the video; the report. InputError before any work where the inputs cannot be used."""
    check_output(job.out)
    if job.report is not None:
        check_output(job.report)
    device = app.parse_device("--device", job.device)
    model = load_model(job.weights, device=device, dtype=torch.float32)
    frames = app.animate(
        job.image, job.audio, model=model, seed=job.seed, steps=job.steps, face_index=job.face, mask=job.mask,
        speaking=cast(app.SpeakingMode, job.speaking), decode_device=job.decode_device, queue_depth=job.queue_depth)
    metrics = frames.new_metrics(started=job.started)
    write_video(frames, job.out, metrics, quiet=job.quiet)
    report = make_report(job, model, frames, metrics)
    if job.report is not None:
        write_report(job.report, report)
    return report


def write_video(frames: FrameStream, out: Path, metrics: StreamMetrics, *, quiet: bool) -> None:
    """Drain a stream into an mp4, a chunk in memory at a time."""
    meta = frames.meta
    with VideoWriter(out, meta.width, meta.height, meta.fps, audio=meta.audio) as writer, _bar(meta.num_frames, quiet) as advance:
        for chunk in frames.chunks(metrics=metrics):
            writer.write(chunk.frames)
            advance(len(chunk.frames))


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Any]:
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames"), BarColumn(), _Rate(), TextColumn("to go"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("frames", total=total)
        yield lambda count: progress.advance(task, count)


def make_report(job: Job, model: TalkingModel, frames: FrameStream, metrics: StreamMetrics) -> dict[str, Any]:
    """The numbers of a finished job (design section 8)."""
    meta = frames.meta
    return {
        "out": str(job.out), "model": model.config.name, "width": meta.width, "height": meta.height, "fps": float(meta.fps),
        **metrics.report(), "audio_s": round(meta.audio_s, 3), "seed": job.seed,
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """JSON under a temporary name, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError("--report", path, f"cannot be written ({error.strerror})", "choose another place") from error
