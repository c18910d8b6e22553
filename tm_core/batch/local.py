"""Several worker processes on this machine: each loads the model once; a dead one is replaced.

Workers ignore Ctrl-C (the parent ends them) and end with their parent, however that ends. The CPU's threads are split between
them: two workers that both use every core wait for each other. Non-goals: other machines (ray_engine).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.process import parent_process
from typing import Any

import torch

from ..errors import InputError
from .worker import BatchConfig, BatchWorker, Outcome, Task

WAIT_S = 0.2
MOST_DEATHS = 3  # of workers that never got as far as a task, one after the other
LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places(config: BatchConfig, items: int) -> int:
    """Workers that make sense here: one for each GPU, or for each core; never more than items."""
    gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else int(config.device.startswith("cuda"))
    return max(1, min(gpus or cores(), items))


@dataclass(eq=False)
class _Worker:
    """A process and the parent's end of its pipe."""

    process: Any
    pipe: connection.Connection
    config: BatchConfig
    ready: bool = False
    task: Task | None = None


class LocalEngine:
    """Processes that are fed one task at a time."""

    name = "local"

    def __init__(self, config: BatchConfig, items: int, workers: int | None = None) -> None:
        """`workers` None: as many as make sense here. InputError for a number that cannot be."""
        check_workers(workers)
        self.workers = min(workers or places(config, items), max(1, items))
        self._spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        threads = config.threads or max(1, cores() // self.workers)
        configs = [replace(config, threads=threads, device=_device(config.device, i)) for i in range(self.workers)]
        self._deaths = 0
        self._workers: list[_Worker] = []
        try:
            for one in configs:
                self._workers.append(self._start(one))
        except BaseException:
            self.close()
            raise

    def free(self) -> int:
        """As Engine."""
        return sum(w.ready and w.task is None for w in self._workers)

    def submit(self, task: Task) -> None:
        """As Engine."""
        worker = next(w for w in self._workers if w.ready and w.task is None)
        worker.task = task
        with contextlib.suppress(OSError):  # it died just now: `wait` sees that
            worker.pipe.send(task)

    def wait(self) -> list[Outcome]:
        """As Engine; InputError where workers cannot even start."""
        signs = {s: w for w in self._workers for s in (w.pipe, w.process.sentinel)}
        changed = {id(w): w for w in (signs[s] for s in connection.wait(list(signs), WAIT_S))}
        return [outcome for w in changed.values() for outcome in self._hear(w)]

    def close(self) -> None:
        """As Engine."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def _start(self, config: BatchConfig) -> _Worker:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_work, args=(theirs, config), daemon=True, name="tm-batch")
        with _inherited(config.threads or 1):
            process.start()
        theirs.close()  # so that its end is the end of the pipe
        return _Worker(process=process, pipe=ours, config=config)

    def _hear(self, worker: _Worker) -> Iterator[Outcome]:
        """What a worker said, or that it died; a message that was sent before dying counts."""
        try:
            while worker.pipe.poll():
                yield from self._message(worker, worker.pipe.recv())
            if worker.process.is_alive():
                return
        except (EOFError, OSError):
            pass
        worker.process.join()
        yield from self._died(worker)

    def _message(self, worker: _Worker, message: Any) -> Iterator[Outcome]:
        if isinstance(message, Outcome):
            worker.task, self._deaths = None, 0
            yield message
        elif message is None:
            worker.ready = True
        else:
            raise InputError(*message)

    def _died(self, worker: _Worker) -> Iterator[Outcome]:
        code, task = worker.process.exitcode, worker.task
        self._deaths = 0 if task else self._deaths + 1
        if self._deaths >= MOST_DEATHS:
            raise InputError("--workers", self.workers, f"they die while they load the model ({died(code)})", "use fewer")
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start(worker.config)
        if task is not None:
            yield Outcome(task=task, crashed=True, reason=f"its worker died ({died(code)})")


def check_workers(workers: int | None) -> None:
    """InputError for a number that cannot be."""
    if workers is not None and workers < 1:
        raise InputError("--workers", workers, "at least one must work", "leave it out for as many as make sense here")


def died(code: int | None) -> str:
    """How a process ended, for people."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {code}"


def _device(name: str, number: int) -> str:
    """GPUs in turn."""
    gpus = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{number % gpus}" if gpus else name


@contextlib.contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a process takes over while it starts: so many threads for every library, and no ear for Ctrl-C."""
    before = {name: os.environ.get(name) for name in LIBRARY_THREADS}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ.update(dict.fromkeys(LIBRARY_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if main:
            signal.signal(signal.SIGINT, handler)


# -- in a worker's process ----------------------------------------------------------------------------------


def _work(pipe: connection.Connection, config: BatchConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = BatchWorker(config)
    except InputError as error:  # cannot be pickled: its parts can
        pipe.send((error.field, str(error.value), error.rule, error.remedy))
        return
    pipe.send(None)
    while True:
        pipe.send(worker.make(pipe.recv()))


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody to hand its video to."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
