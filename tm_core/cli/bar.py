"""The progress bar of a terminal. Non-goals: logs, which get lines (video_job)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Frames per second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "- frames/s", style="progress.data.speed")


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A callable that moves the bar on by a number of frames; the bar goes at the end."""
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames"), BarColumn(), _Rate(), TextColumn("to go"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=total)
        yield lambda count: progress.advance(task, count)
