"""What an engine is, and the one that works in this process (ComfyUI's node: one model, no other processes).

An engine has places for tasks; a task put into one comes back as an Outcome. Which task, how often, and what is written down is
the same for all of them (runner.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..streaming.pipeline import Poll
from .worker import BatchConfig, BatchWorker, MakeStream, Outcome, Shown, Task


class Engine(Protocol):
    """Where tasks are worked on. `wait` returns after a short while with what has ended; `close` ends everything at once."""

    name: str

    @property
    def workers(self) -> int:
        """Tasks that can be worked on at the same time."""

    def free(self) -> int:
        """Places that take a task now."""

    def submit(self, task: Task) -> None:
        """Put a task into a free place."""

    def wait(self) -> list[Outcome]:
        """What has ended; empty after a short while without anything."""

    def close(self) -> None:
        """End all workers, tasks or not."""


MakeEngine = Callable[[BatchConfig, int], Engine]  # the configuration, and how many items there are to do


class _Stopped(BaseException):
    """Carries what the host raised out of the work, past everything that would call it the item's failure."""


class InlineEngine:
    """One task at a time on the thread that waits; what `poll` or `shown` raise ends the run."""

    name, workers = "inline", 1

    def __init__(
        self, config: BatchConfig, make_stream: MakeStream, poll: Poll | None = None, shown: Shown | None = None,
        stops: tuple[type[BaseException], ...] = (),
    ) -> None:
        """`poll` is called all the time, `shown` with the newest frame of each chunk; `stops` as for BatchWorker.make."""
        self._worker, self._stops = BatchWorker(config, make_stream), stops
        self._poll, self._shown = _guarded(poll), _guarded(shown)
        self._task: Task | None = None

    def free(self) -> int:
        """As Engine."""
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        """As Engine."""
        self._task = task

    def wait(self) -> list[Outcome]:
        """Does the work; raises what the host raised."""
        task, self._task = self._task, None
        if task is None:
            return []
        try:
            return [self._worker.make(task, self._poll, self._shown, self._stops)]
        except _Stopped as stopped:
            raise (stopped.__cause__ or stopped) from None

    def close(self) -> None:
        """As Engine."""


def _guarded(call: Callable[..., None] | None) -> Any:
    if call is None:
        return None

    def guarded(*args: Any) -> None:
        try:
            call(*args)
        except BaseException as error:
            raise _Stopped from error

    return guarded
