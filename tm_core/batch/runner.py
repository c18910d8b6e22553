"""A batch from beginning to end: what is left is worked on, every outcome goes into the ledger, a report says what became of it.

The same for every engine. A worker that dies with an item gets another chance with it; what fails by itself (a bad file) does
not. Non-goals: where the work happens (engine, local, ray_engine), what a user sees (cli, nodes).
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..outputs import write_text
from .batch_ledger import DONE, FAILED, BatchLedger, BatchRecord
from .digest import Digests
from .engine import Engine, MakeEngine
from .manifest import BatchItem
from .places import REPORT
from .worker import BatchConfig, Outcome, Task

ATTEMPTS = 2  # when the worker dies
DONE_BEFORE, FAILED_BEFORE, LEFT = "done before", "failed before", "left"


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """How far a run has come; `item` and `reason` (empty: it is done) are of what ended last."""

    total: int
    done: int
    failed: int
    item: BatchItem | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What is in the folder now, this run's and earlier ones' items together."""

    out: str
    engine: str
    workers: int
    items: int
    done: int
    done_now: int
    failed: int
    left: int  # a run that was stopped leaves some
    wall_s: float  # of this run
    video_s: float  # made in this run
    items_per_minute: float
    video_s_per_s: float
    failures: list[dict[str, Any]]
    results: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """Without the item by item account."""
        return {k: v for k, v in self.to_dict().items() if k != "results"}


OnProgress = Callable[[BatchProgress], None]


def run_batch(
    items: Sequence[BatchItem], out: Path, make_engine: MakeEngine, *, model: str, config: BatchConfig, retry_failed: bool = False,
    on_progress: OnProgress | None = None,
) -> BatchReport:
    """Make what is not made yet; raises what stopped it, after a report of what there is.

    `model`: hash of the weights (digest); `config` says how workers work, its staging folder is `out`'s.
    """
    with BatchLedger(out.resolve()) as ledger:
        return _Run(items, ledger, model, retry_failed, on_progress or _quiet).work(make_engine, config)


def _quiet(_: BatchProgress) -> None:
    """For those who look at the report."""


class _Run:
    def __init__(self, items: Sequence[BatchItem], ledger: BatchLedger, model: str, retry_failed: bool, on_progress: OnProgress) -> None:
        self._ledger, self._on_progress = ledger, on_progress
        self._items, self._states = items, dict.fromkeys((i.out for i in items), LEFT)
        self._facts: dict[str, dict[str, Any]] = {}
        self._queue: deque[Task] = deque()
        self._started, self._workers, self._engine = time.monotonic(), 0, ""
        digests, mark = Digests(model), uuid.uuid4().hex[:12]  # a worker that outlives its parent a moment harms nobody
        for number, item in enumerate(items):
            task = Task(item=item, digest=digests.of(item), staged=f"{mark}-{number}.mp4")
            self._sort(task, retry_failed)

    def _sort(self, task: Task, retry_failed: bool) -> None:
        record = self._ledger.of(task.item.out, task.digest)
        if record is None or (record.state == FAILED and retry_failed):
            self._queue.append(task)
            return
        self._states[task.item.out] = DONE_BEFORE if record.state == DONE else FAILED_BEFORE
        self._facts[task.item.out] = _known(record)

    def work(self, make_engine: MakeEngine, config: BatchConfig) -> BatchReport:
        """Until nothing is left."""
        try:
            self._say()
            if self._queue:
                engine = make_engine(replace(config, staging=self._ledger.staging), len(self._queue))
                self._workers, self._engine = engine.workers, engine.name
                with closing(engine):
                    self._drive(engine)
        finally:
            report = self._report()
            write_text(self._ledger.folder / REPORT, json.dumps(report.to_dict(), indent=2) + "\n")
        return report

    def _drive(self, engine: Engine) -> None:
        running = 0
        while self._queue or running:
            while self._queue and engine.free():
                engine.submit(self._queue.popleft())
                running += 1
            for outcome in engine.wait():
                running -= 1
                self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        task = outcome.task
        if outcome.full:  # everybody's trouble: the item is left to a later run
            raise InputError("out", self._ledger.folder, "the disk is full", "free some space, then run it again: it goes on")
        if outcome.crashed and task.attempt < ATTEMPTS:
            again = replace(task, attempt=task.attempt + 1, staged=f"again-{task.staged}")
            self._queue.append(again)
            return
        reason = outcome.reason and outcome.reason + (f", {task.attempt} times" if outcome.crashed else "")
        record = BatchRecord(
            out=task.item.out, digest=task.digest, state=FAILED if reason else DONE, reason=reason,
            staged="" if reason else task.staged, sha256=outcome.sha256, facts=outcome.facts)
        record = self._ledger.failed(record) if reason else self._ledger.done(record)
        self._states[task.item.out], self._facts[task.item.out] = record.state, _known(record)
        self._say(task.item, record.reason)

    # -- what is told

    def _count(self, *states: str) -> int:
        return sum(s in states for s in self._states.values())

    def _say(self, item: BatchItem | None = None, reason: str = "") -> None:
        self._on_progress(BatchProgress(
            total=len(self._items), done=self._count(DONE, DONE_BEFORE), failed=self._count(FAILED, FAILED_BEFORE),
            item=item, reason=reason))

    def _report(self) -> BatchReport:
        wall = time.monotonic() - self._started
        results = [{"line": i.line, "out": i.out, "state": self._states[i.out], **self._facts.get(i.out, {})} for i in self._items]
        now = [r for r in results if r["state"] == DONE]
        video_s = sum(float(r["video_s"]) for r in now)
        return BatchReport(
            out=str(self._ledger.folder), engine=self._engine, workers=self._workers, items=len(results),
            done=self._count(DONE, DONE_BEFORE), done_now=len(now), failed=self._count(FAILED, FAILED_BEFORE), left=self._count(LEFT),
            wall_s=round(wall, 3), video_s=round(video_s, 3), items_per_minute=round(60 * len(now) / wall, 3),
            video_s_per_s=round(video_s / wall, 4), results=results,
            failures=[{k: r[k] for k in ("line", "out", "reason")} for r in results if r["state"] in (FAILED, FAILED_BEFORE)])


def _known(record: BatchRecord) -> dict[str, Any]:
    return {"reason": record.reason} if record.reason else {"sha256": record.sha256, **record.facts}
