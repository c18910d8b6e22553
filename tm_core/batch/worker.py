"""One item becomes one video in the staging folder: what a worker does, whichever engine it belongs to.

How an item becomes a stream is a function (MakeStream), so that a host can add its own encoders and prompts.
Non-goals: who works on what (run), the name the video gets at the end (ledger).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import talk
from ..compose.canvas import FrameStream
from ..errors import InputError
from ..families.settings import Choices
from ..media.video_io import VideoWriter
from ..outputs import is_full
from ..streaming.pipeline import Poll
from ..talk import Encoders
from ..weights.loading import TalkingModel, load_model
from .digest import file_digest
from .manifest import BatchItem

log = logging.getLogger(__name__)
Shown = Callable[[np.ndarray], None]  # the newest frame (H, W, 3) uint8
MakeStream = Callable[[BatchItem], FrameStream]  # an item's video, nothing of it computed yet; InputError for what cannot be used


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What every worker of a run needs: paths are absolute, so that another machine finds them in a shared folder."""

    staging: Path
    weights: Path | None = None
    device: str = "auto"
    threads: int | None = None  # of the CPU, for one worker; None: as torch is set


@dataclass(frozen=True, kw_only=True)
class Task:
    """An item on its way: `digest` of what it is made of, `staged` its file in the staging folder."""

    item: BatchItem
    digest: str
    staged: str
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task. `crashed`: the worker died with it, which says little about the item; `full`: the disk is."""

    task: Task
    sha256: str = ""
    reason: str = ""
    crashed: bool = False
    full: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a video."""
        return not self.reason


def streams_of(model: TalkingModel, *, choices: Choices | None = None, encoders: Encoders | None = None) -> MakeStream:
    """Items as streams of a model; choices and encoders are the same for all of them."""

    def make(item: BatchItem) -> FrameStream:
        return talk.animate(
            item.image, item.audio, model=model, options=item.options, mask=item.mask, choices=choices, encoders=encoders)

    return make


class BatchWorker:
    """A worker's share: the model, loaded once."""

    def __init__(self, config: BatchConfig, make_stream: MakeStream | None = None) -> None:
        """`make_stream` None: of the config's weights, loaded here.

        InputError for weights or a device that cannot be used, or a staging folder this machine does not see.
        """
        if not config.staging.is_dir():
            raise InputError(
                "out", config.staging.parent, "is not there on this machine",
                "use a folder that every machine of the cluster sees under the same path")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._config = config
        self._make_stream = make_stream or streams_of(
            load_model(config.weights, device=talk.parse_device("device", config.device), dtype=torch.float32))
        talk.face_mesh()

    def make(
        self, task: Task, poll: Poll | None = None, shown: Shown | None = None, stops: tuple[type[BaseException], ...] = (),
    ) -> Outcome:
        """The video of a task, whole and synced; whatever goes wrong with the item is the outcome.

        `poll` may raise BaseException; `stops` are a host's exceptions that end the run wherever they come from (its layers
        ask for the user's stop themselves).
        """
        started = time.monotonic()
        try:
            facts = self._write(task, poll, shown)
            path = self._config.staging / task.staged
            return Outcome(task=task, sha256=file_digest(path), facts={**facts, "seconds": round(time.monotonic() - started, 3)})
        except stops:
            raise
        except Exception as error:  # one item's trouble must not end the others
            if not isinstance(error, InputError):
                log.exception("%s failed", task.item.out)
            return Outcome(task=task, reason=described(error), full=is_full(error))

    def _write(self, task: Task, poll: Poll | None, shown: Shown | None) -> dict[str, Any]:
        frames = self._make_stream(task.item)
        meta, path = frames.meta, self._config.staging / task.staged
        with (
            VideoWriter(path, meta.width, meta.height, meta.fps, audio=meta.audio) as writer,
            closing(frames.chunks(poll=poll)) as chunks,  # both workers end before the file is closed
        ):
            for chunk in chunks:
                writer.write(chunk.frames)
                if shown is not None:
                    shown(chunk.frames[-1])
        _sync(path)
        return {"frames": meta.total_frames, "video_s": round(meta.duration_s, 3)}


def described(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text or 'no message'}"


def _sync(path: Path) -> None:
    """On the disk before the ledger says so."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
