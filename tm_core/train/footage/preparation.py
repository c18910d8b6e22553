"""`talking-machines data prepare`: a folder of videos to a folder of clips, a ledger and a report.

Whatever is finished is kept: a run that was stopped or killed goes on, and ends as if it had not been. A source that
changed, or other thresholds or weights, are done again. Non-goals: more than one machine.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...outputs import write_text
from .footage_ledger import FootageLedger, FootageRecord, Stamp
from .source import FootageJob, FootageWorker, process
from .thresholds import REASONS, FootageConfig

log = logging.getLogger(__name__)

SUFFIXES = frozenset({
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm",
    ".wmv",
})
LEDGER, REPORT = "ledger.jsonl", "report.json"
OnSource = Callable[[str, list[FootageRecord]], None]


@dataclass(frozen=True, kw_only=True)
class FootageReport:
    """What is in the folder now, this run's and earlier ones' sources together."""

    folder: str
    sources: int
    done_now: int  # sources looked at in this run; the others were finished before
    waiting: int  # sources left for another run by --limit
    seconds: float  # of all sources
    kept_s: float
    listening_s: float  # of kept_s: Silence clips
    kept: int
    dropped: dict[str, dict[str, float]]  # reason: clips, seconds
    left_s: float  # ends of scenes too short for one more clip
    unusable: dict[str, str]  # source: why it could not be read, or only in part

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def table(self) -> str:
        """The same for people: minutes and clips, kept and dropped by reason."""
        lines = [f"{'':16} {'clips':>6} {'minutes':>8}", _row("kept", self.kept, self.kept_s, _listening(self.listening_s))]
        lines += [_row(r, int(v["clips"]), v["seconds"], REASONS[r]) for r, v in self.dropped.items()]
        lines += [_row("left over", None, self.left_s, "ends of scenes, too short for one more clip"),
                  _row("all", None, self.seconds, f"{self.sources} sources, {self.done_now} of them now, {self.waiting} waiting")]
        lines += [f"unusable: {source}: {why}" for source, why in self.unusable.items()]
        return "\n".join(lines)


def _listening(seconds: float) -> str:
    return f"{seconds / 60:.2f} of them listening" if seconds else ""


def _row(name: str, clips: int | None, seconds: float, text: str) -> str:
    return f"{name:16} {'' if clips is None else clips:>6} {seconds / 60:8.2f}  {text}".rstrip()


def prepare(
    folder: Path, out: Path, cfg: FootageConfig, *, weights: Path | None = None, device: str = "cpu", workers: int = 1,
    limit: int | None = None, progress: OnSource | None = None,
) -> FootageReport:
    """Clips of all videos under `folder` into `out`/clips, with ledger.jsonl and report.json; goes on where it was stopped.

    `limit`: sources to look at in this run. InputError for a folder without videos, or an `out` of another folder.
    """
    folder, out = folder.resolve(), out.resolve()
    found = find_sources(folder, out)
    _check(workers, limit)
    _open_out(out, folder)
    job = FootageJob(
        folder=folder, out=out, cfg=cfg, weights=None if weights is None else weights.resolve(), device=device,
        threads=1 if workers > 1 else None)
    worker = FootageWorker(job)
    ledger = FootageLedger(out / LEDGER)
    ledger.compact()  # without what a kill left behind
    todo = [s for s in found if not ledger.finished(s, Stamp.of(folder / s, worker.settings))]
    now = todo[:limit]
    if now:
        worker.check()
    for source, records in _results(worker, now, workers):
        ledger.add(source, records)
        if progress is not None:
            progress(source, records)
    ledger.compact()
    report = summary(ledger, folder, done_now=len(now), waiting=len(todo) - len(now))
    _write_json(out / REPORT, report.to_dict())
    return report


def find_sources(folder: Path, out: Path) -> list[str]:
    """Videos under `folder`, as paths in it, those of `out` left out; InputError where there are none."""
    if not folder.is_dir():
        raise InputError("folder", folder, "is no folder", "give the folder your videos are in")
    found = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".") and not p.is_relative_to(out))
    if not found:
        raise InputError("folder", folder, "no videos in it", f"give a folder with files such as {', '.join(sorted(SUFFIXES)[:8])}")
    return found


def summary(ledger: FootageLedger, folder: Path, *, done_now: int, waiting: int) -> FootageReport:
    """The ledger added up."""
    records = list(ledger)
    sources = [r for r in records if r["kind"] == "source"]
    clips = [r for r in records if r["kind"] == "clip"]
    kept = [c for c in clips if c["state"] == "kept"]
    dropped = {}
    for reason in REASONS:
        chosen = [c for c in clips if c["reason"] == reason]
        whole = [s for s in sources if s["reason"] == reason]
        if chosen or whole:
            dropped[reason] = {"clips": len(chosen) + len(whole), "seconds": _seconds(chosen) + sum(s["seconds"] for s in whole)}
    return FootageReport(
        folder=str(folder), sources=len(sources), done_now=done_now, waiting=waiting,
        seconds=round(sum(s["seconds"] for s in sources), 3), kept_s=_seconds(kept),
        listening_s=_seconds([c for c in kept if c["measures"]["listens"]]), kept=len(kept),
        dropped=dropped, left_s=round(sum(s["left_s"] for s in sources), 3),
        unusable={s["source"]: s["detail"] for s in sources if s["detail"]})


def _seconds(clips: list[FootageRecord]) -> float:
    return round(float(sum(c["end_s"] - c["start_s"] for c in clips)), 3)


def _check(workers: int, limit: int | None) -> None:
    if workers < 1:
        raise InputError("--workers", workers, "at least one process must work", "use 1")
    if limit is not None and limit < 1:
        raise InputError("--limit", limit, "at least one source must be looked at", "leave it out for all of them")


def _open_out(out: Path, folder: Path) -> None:
    """Make the output folder; InputError where it belongs to other footage or cannot be written."""
    origin = out / "folder.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        known = json.loads(origin.read_text(encoding="utf-8"))["folder"] if origin.is_file() else None
        if known is None:
            _write_json(origin, {"folder": str(folder)})
    except (OSError, ValueError, KeyError) as error:
        raise InputError("out", out, f"cannot be used ({error})", "choose a folder that you may write to") from error
    if known not in (None, str(folder)):
        raise InputError("out", out, f"holds the clips of {known}", "choose another --out, or delete its folder.json if the videos moved")


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


# -- processes -----------------------------------------------------------------------------------------


def _results(worker: FootageWorker, sources: list[str], workers: int) -> Iterator[tuple[str, list[FootageRecord]]]:
    """Each source's records as it is finished."""
    if workers == 1 or len(sources) < 2:
        yield from ((s, process(worker, s)) for s in sources)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(sources)), spawn, _begin, (worker.job, os.getpid()))
    try:
        waiting: dict[Future[list[FootageRecord] | tuple[str, ...]], str] = {pool.submit(_work, s): s for s in sources}
        while waiting:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                result = done.result()
                if isinstance(result, tuple):
                    raise InputError(*result)
                yield waiting.pop(done), result
    except BrokenProcessPool as error:
        raise InputError("--workers", workers, "a worker died (memory, or a decoder crashed)", "run again with --workers 1") from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: list[FootageWorker] = []  # of a worker process


def _begin(job: FootageJob, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.append(FootageWorker(job))


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(source: str) -> list[FootageRecord] | tuple[str, ...]:
    """A source's records, or the four parts of an error that ends the run: an InputError cannot be pickled."""
    try:
        return process(_worker[0], source)
    except InputError as error:
        return error.field, str(error.value), error.rule, error.remedy
