"""Workers as actors of a Ray cluster: several machines that see the same folders under the same paths.

RAY_ADDRESS names the cluster, as everywhere in Ray; without it a running one is joined, or one is begun on this machine. Only
this process writes the ledger; actors end with it. Non-goals: moving files between machines.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .local import check_workers
from .worker import BatchConfig, BatchWorker, Outcome, Task

WAIT_S = 0.2
START_S = 300.0  # for the first actor to be ready
MOST_DEATHS = 3
INSTALL = "pip install 'talking-machines[batch]'"


class RayWorker:
    """What runs as an actor."""

    def __init__(self, config: BatchConfig) -> None:
        self._config = config
        self._worker: BatchWorker | None = None

    def load(self) -> tuple[str, ...] | None:
        """Load the model; the parts of an InputError, which cannot be pickled."""
        try:
            self._worker = BatchWorker(self._config)
        except InputError as error:
            return error.field, str(error.value), error.rule, error.remedy
        return None

    def make(self, task: Task) -> Outcome:
        """As BatchWorker."""
        assert self._worker is not None
        outcome = self._worker.make(task)
        node = _ray().get_runtime_context().get_node_id()
        return replace(outcome, facts={**outcome.facts, "node": node})


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine", "ray", "Ray is not installed", INSTALL) from error
    return ray


class RayEngine:
    """Actors that are fed one task at a time; an actor is used from the moment it has loaded its model."""

    name = "ray"

    def __init__(self, config: BatchConfig, items: int, workers: int | None = None) -> None:
        """`workers` None: one for each GPU (device auto or cuda) or else for each core of the cluster. InputError without Ray."""
        check_workers(workers)
        self._ray = _ray()
        self._began = not self._ray.is_initialized()
        if self._began:
            self._join()
        cluster = self._ray.cluster_resources()
        gpus = int(cluster.get("GPU", 0)) if config.device in ("auto", "cuda") else 0
        self.workers = min(workers or gpus or int(cluster.get("CPU", 1)) or 1, max(1, items))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": config.threads or 1}
        self._config = config if gpus else replace(config, threads=config.threads or 1)
        self._remote = self._ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **needs)(RayWorker)
        self._loading: dict[Any, Any] = {}  # reference of `load`: actor
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Task]] = {}  # reference of `make`: actor, task
        self._deaths, self._started, self._ever = 0, time.monotonic(), False
        for _ in range(self.workers):
            self._start()

    def _join(self) -> None:
        try:
            self._ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
        except ValueError:  # joining a cluster that runs, where a dashboard is nobody's choice
            self._ray.init(logging_level=logging.WARNING, log_to_driver=False)
        except ConnectionError as error:
            raise InputError("--engine", "ray", f"no cluster answers ({error})", "check RAY_ADDRESS, or unset it") from error

    def free(self) -> int:
        """As Engine."""
        return len(self._idle)

    def submit(self, task: Task) -> None:
        """As Engine."""
        actor = self._idle.pop()
        self._busy[actor.make.remote(task)] = actor, task

    def wait(self) -> list[Outcome]:
        """As Engine; InputError where no actor can start."""
        pending = [*self._loading, *self._busy]
        ended, _ = self._ray.wait(pending, num_returns=1, timeout=WAIT_S) if pending else ([], [])
        outcomes = [o for reference in ended for o in self._hear(reference)]
        if not self._ever and time.monotonic() - self._started > START_S:
            raise InputError(
                "--engine", "ray", f"no worker could start in {START_S:.0f} s: {self._ray.available_resources()} are free",
                "free some cores, or add machines to the cluster")
        return outcomes

    def close(self) -> None:
        """As Engine; a cluster that was begun for this run ends with it."""
        actors = [*self._loading.values(), *self._idle, *(actor for actor, _ in self._busy.values())]
        for actor in actors:
            with contextlib.suppress(Exception):  # it may be gone already
                self._ray.kill(actor)
        self._loading, self._idle, self._busy = {}, [], {}
        if self._began:
            self._ray.shutdown()

    def _start(self) -> None:
        actor = self._remote.remote(self._config)
        self._loading[actor.load.remote()] = actor

    def _hear(self, reference: Any) -> list[Outcome]:
        if reference in self._loading:
            return self._loaded(reference, self._loading.pop(reference))
        actor, task = self._busy.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._start()
            return [Outcome(task=task, crashed=True, reason=f"its worker died ({_first_line(error)})")]
        self._idle.append(actor)
        self._deaths = 0
        return [outcome]

    def _loaded(self, reference: Any, actor: Any) -> list[Outcome]:
        try:
            refused = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise InputError(
                    "--engine", "ray", f"workers die while they load the model ({_first_line(error)})",
                    "see that every machine has talking-machines installed and enough memory") from error
            self._start()
            return []
        if refused is not None:
            raise InputError(*refused)
        self._idle.append(actor)
        self._ever = True
        return []


def _first_line(error: BaseException) -> str:
    """What went wrong; Ray's own errors are pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:300]
