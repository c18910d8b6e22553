"""`talking-machines batch`: a manifest in, a folder of videos and a report out, with a progress bar.

Non-goals: the work itself (batch).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import talk
from ..batch.digest import weights_digest
from ..batch.engine import MakeEngine
from ..batch.local import LocalEngine
from ..batch.manifest import BatchItem
from ..batch.places import STAGING
from ..batch.ray_engine import RayEngine
from ..batch.runner import BatchProgress, run_batch
from ..batch.worker import BatchConfig

ENGINES: dict[str, Any] = {"local": LocalEngine, "ray": RayEngine}


def run_items(
    items: Sequence[BatchItem], out: Path, *, workers: int | None = None, engine: str = "local", retry_failed: bool = False,
    weights: Path | None = None, device: str = "auto", quiet: bool = False,
) -> dict[str, Any]:
    """Make everything that a manifest names; the summary. InputError before any work where something cannot be used."""
    if engine == "local":
        talk.parse_device("--device", device)
    out = out.resolve()
    config = BatchConfig(staging=out / STAGING, weights=None if weights is None else weights.resolve(), device=device)
    make: MakeEngine = partial(ENGINES[engine], workers=workers)
    with _bar(len(items), quiet) as tell:
        report = run_batch(
            items, out, make, model=weights_digest(weights), config=config, retry_failed=retry_failed, on_progress=tell)
    return report.summary()


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[BatchProgress], None]]:
    """A callable that is told of every item that ended: a bar on a terminal, elsewhere a line each; failures are always told."""
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} items"), BarColumn(), TextColumn("{task.fields[failed]} failed"),
        TextColumn("to go"), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("items", total=total, failed=0)

        def tell(told: BatchProgress) -> None:
            progress.update(task, completed=told.done + told.failed, failed=told.failed)
            if told.item is None:
                return
            line = f"{told.done + told.failed}/{told.total} {time.monotonic() - started:.0f} s {told.item.out}: {told.reason or 'done'}"
            if shown and told.reason:
                console.print(line, markup=False, highlight=False)
            elif not shown and (told.reason or not quiet):
                sys.stderr.write(line + "\n")

        yield tell
