"""Damaged inputs: thousands of seeded mutations of everything that is read, each an answer or an error of one line.

`--part` chooses among picture, mask, sound, video, manifest, timeline, weights and host; each is tried in processes of its own,
so that a hang, a crash of a codec and an allocation without end are counted too. The zoo and the mutations are those of
`_mutants.py`, where a miss can be tried again by its number. host: values of widgets in a running ComfyUI.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT, Result, result, say
from benchmarks._mutants import ENTRIES
from tm_core.errors import InputError

EACH, WORKERS = 500, 2
MOST_S, START_S = 20.0, 180.0  # for one mutation; for a process to begin
SHOWN = 10  # misses told by number
HOST = "host"
WORKER = ("-m", "benchmarks._mutants")
Outcome = dict[str, Any]


def run(*, part: Sequence[str] | None = None, each: int = EACH) -> list[Result]:
    """Counts of every entry point, or of those chosen; `each`: mutations of one."""
    names = [*ENTRIES, HOST]
    if unknown := set(part or ()) - set(names):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench mutations has {', '.join(names)}", "choose one of them")
    chosen, rows = [n for n in names if not part or n in part], list[Result]()
    for name in chosen:
        if name == HOST:
            from benchmarks._host_mutations import tried_in_host

            outcomes = tried_in_host(each)
        else:
            outcomes = tried(name, each)
        rows += counted(name, outcomes)
    return rows


def counted(name: str, outcomes: Sequence[Outcome]) -> list[Result]:
    """Figures of one entry point; its first misses are told with the numbers that make them again."""
    misses = [o for o in outcomes if o["outcome"] == "miss"]
    for miss in misses[:SHOWN]:
        say(f"  {name} {miss['number']} ({miss.get('file', '')}): {miss['why']}")
    answered = sum(o["outcome"] == "answer" for o in outcomes)
    return [
        result(f"{name}: mutations", len(outcomes), "files" if name != HOST else "graphs"),
        result(f"{name}: read in spite of it", answered, "of them"),
        result(f"{name}: neither an answer nor one line", len(misses), "of them", "= 0", not misses)]


def tried(entry: str, count: int) -> list[Outcome]:
    """All mutations of an entry point, by WORKERS processes."""
    share = -(-count // WORKERS)
    starts = range(0, count, share)
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = pool.map(lambda first: _share(entry, first, min(share, count - first)), starts)
        return [outcome for part in parts for outcome in part]


def _share(entry: str, first: int, count: int) -> list[Outcome]:
    """Mutations first ... of an entry point; a process that hangs or dies is one miss, and the next goes on behind it."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        at = first + len(outcomes)
        folder = Path(tempfile.mkdtemp(prefix="tm-mutants-"))
        try:
            done, ended = _one_process(folder, entry, at, count - len(outcomes))
        finally:
            shutil.rmtree(folder)
        outcomes += done
        if ended is not None:
            outcomes.append({"number": at + len(done), "outcome": "miss", "why": ended})
    return outcomes


def _one_process(folder: Path, entry: str, first: int, count: int) -> tuple[list[Outcome], str | None]:
    """What one process told, and how it ended: None where it did all it was asked to."""
    command = [sys.executable, *WORKER, str(folder), entry, str(first), str(count)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    outcomes: list[Outcome] = []
    limit, begun = START_S, False
    try:
        while len(outcomes) < count:
            line = lines.get(timeout=limit)
            if line is None:
                return outcomes, _death(process, folder) if begun else _not_begun(process, folder)
            told = json.loads(line)
            begun, limit = True, MOST_S
            if "begin" not in told:
                outcomes.append(told)
        return outcomes, None
    except queue.Empty:
        return outcomes, f"no answer after {limit:.0f} s"
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _death(process: subprocess.Popen[str], folder: Path) -> str:
    code = process.wait()
    return f"the process ended with {code}: {' '.join((folder / 'stderr').read_text(errors='replace')[-300:].split())}"


def _not_begun(process: subprocess.Popen[str], folder: Path) -> str:
    raise RuntimeError(_death(process, folder))
