"""The bundled model through the real pipeline on the device, against the same code on the CPU in the same run.

Two bars. On one device the same stream must have equal bits however it was pulled: twice, by two sinks, after a cancel. Across
devices float32 sums are ordered otherwise: a hundredth of the latents' size, a level of the pictures on average. The CPU's own
latents are held against recorded ones, so that the reference itself is checked.
"""

from __future__ import annotations

import copy
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks._gpu.blocks import compiled_blocks
from benchmarks._gpu.pack import load_pack
from benchmarks._gpu.record import Recorder
from benchmarks._gpu.sample import Sample, frames_of, latents_of, load_sample, open_stream
from benchmarks._gpu.timing import allocated_mb, difference
from tm_core.errors import Cancelled
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import LatentStream
from tm_core.weights.loading import load_model

CHUNKS, FEWER = 9, 5  # the window of positions begins to move at the eighth; a rehearsal on a CPU has fewer
N, RECORDED = 3, (0, 1, 8)  # latents of a chunk; chunks kept in the pack
GOLDEN = "golden.latents"
APART = 0.01  # |latents - latents of the CPU| / |latents of the CPU|
LEVELS = 1.0  # of 255, mean of all pixels
FORGOTTEN_MB = 2.0  # that may stay allocated after a stream was given back; its keys and values weigh 7


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A whole stream: latents (1, C, F, h, w) on the CPU, pictures (T, H, W, 3), where each chunk begins and ends."""

    latents: Tensor
    frames: np.ndarray
    spans: list[tuple[int, int]]

    def same(self, other: Pulled) -> bool:
        """Equal bits."""
        return torch.equal(self.latents, other.latents) and np.array_equal(self.frames, other.frames)


def pull(stream: LatentStream, device: str, vae: Any = None, decode: str | None = None) -> Pulled:
    """One sink at the end of a stream."""
    spans = list[tuple[int, int]]()
    frames = frames_of(stream, device, decode or device, vae, seen=lambda c: spans.append((c.pts, c.pts + len(c.frames))))
    return Pulled(frames=frames, latents=latents_of(stream), spans=spans)


def run(told: Recorder) -> None:
    """Every check by itself: one that fails leaves the others."""
    home = load_model(told.weights)
    sample = load_sample(home.config)
    golden = pull(open_stream(home, sample, CHUNKS if told.cuda else FEWER), "cpu")
    told.row("reference", f"{golden.latents.shape[2]} latents, {len(golden.frames)} frames, computed on the CPU in this run")
    model = home if told.device == "cpu" else load_model(told.weights, device=told.device)
    checks = Checks(told, model, sample, golden)
    for check in (checks.recorded, checks.same_as_cpu, checks.decoded_on_cpu, checks.equal_twice, checks.two_sinks, checks.cancelled,
                  checks.given_back, checks.compiled, checks.in_bfloat16):
        try:
            check()
        except Exception as error:
            told.failed(check.__name__.replace("_", " "), error)


def record(pack: Path) -> None:
    """Writes what the CPU makes of a pack's sample into that pack."""
    with safe_open(str(pack), "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata())  # noqa: SIM118 - not a dict
    model = load_model()
    latents = latents_of(open_stream(model, load_sample(model.config), CHUNKS))
    save_file(tensors | {GOLDEN: recorded_part(latents).half().contiguous()}, pack, metadata)


def recorded_part(latents: Tensor) -> Tensor:
    """Of latents (1, C, F, h, w) the chunks that are recorded, as many of them as there are."""
    return torch.cat([latents[:, :, N * i : N * (i + 1)] for i in RECORDED if N * i < latents.shape[2]], 2)


class Checks:
    """What is checked of a model on a device, each against the same stream pulled once there (`there`) or on the CPU (`golden`)."""

    def __init__(self, told: Recorder, model: TalkingModel, sample: Sample, golden: Pulled) -> None:
        self.told, self.model, self.sample, self.golden = told, model, sample, golden
        self.chunks = golden.latents.shape[2] // N

    @cached_property
    def there(self) -> Pulled:
        """The stream, denoised and decoded on the device."""
        return pull(self.open(), self.told.device)

    def open(self) -> LatentStream:
        """The same stream anew."""
        return open_stream(self.model, self.sample, self.chunks)

    def recorded(self) -> None:
        """The reference itself."""
        tensors, what = load_pack()[0], "the CPU's latents from the recorded ones"
        if self.told.weights is not None or GOLDEN not in tensors:
            self.told.unable(what, "the pack has none of these weights")
            return
        found = recorded_part(self.golden.latents)
        self.told.at_most(what, difference(found, tensors[GOLDEN][:, :, : found.shape[2]]), APART)

    def same_as_cpu(self) -> None:
        """Latents and pictures of the device, and that no frame is missing between chunks."""
        self.told.at_most("denoised and decoded there: latents from the CPU's", difference(self.there.latents, self.golden.latents), APART)
        self._pictures("denoised and decoded there", self.there.frames)
        starts, ends = zip(*self.there.spans, strict=True)
        self.told.true("its chunks follow one another without a hole", starts == (0, *ends[:-1]) and ends[-1] == len(self.golden.frames))

    def decoded_on_cpu(self) -> None:
        """Latents must have arrived before the CPU reads them: what it decodes is what it makes of the finished latents."""
        vae = copy.deepcopy(self.model.vae).to("cpu")  # type: ignore[attr-defined]
        stream, what = self.open(), "denoised there, decoded on the CPU"
        frames = pull(stream, self.told.device, vae, "cpu").frames
        self._pictures(what, frames)
        again = pull(stream, "cpu", vae).frames  # nothing is sampled any more: latents are read from the disk
        self.told.at_most(f"{what}: from decoding the finished latents, at most", int(_apart(frames, again).max()), 1, "levels")

    def equal_twice(self) -> None:
        """A seed is a promise."""
        self.told.true("the same stream twice: equal bits", self.there.same(pull(self.open(), self.told.device)))

    def two_sinks(self) -> None:
        """A preview and a file of one stream."""
        stream, found = self.open(), list[Pulled]()
        sinks = [threading.Thread(target=lambda: found.append(pull(stream, self.told.device)), daemon=True) for _ in range(2)]
        for sink in sinks:
            sink.start()
        for sink in sinks:
            sink.join(max(1.0, self.told.left()))
        self.told.true("two sinks at once: both see what one alone sees", len(found) == 2 and all(self.there.same(f) for f in found))
        self.told.at_most("two sinks at once: chunks sampled", stream.sampled, self.chunks)

    def cancelled(self) -> None:
        """What was complete stays, what follows is as if nothing had been."""
        stream = self._stopped_before(3)
        self.told.true("cancelled before its fourth chunk: three are kept", stream.available == 3)
        self.told.true("cancelled and pulled again: equal bits", self.there.same(pull(stream, self.told.device)))

    def given_back(self) -> None:
        """Keys and values of a stream that nobody pulls any more."""
        before = allocated_mb(self.told.device)
        stream = self._stopped_before(4)
        stream.release()
        kept = allocated_mb(self.told.device) - before
        self.told.at_most("a stream stopped half-way and given back: memory that stays", kept, FORGOTTEN_MB, "MB")

    def compiled(self) -> None:
        """Other roundings, the same stream."""
        if not self.told.enough("blocks compiled", 25 if self.told.cuda else 5):
            return
        stream = self.open()
        with compiled_blocks(self.model.dit, self.told.device) as backend:
            latents = latents_of(stream)
        self.told.at_most(f"blocks compiled ({backend}): latents from the CPU's", difference(latents, self.golden.latents), APART)

    def in_bfloat16(self) -> None:
        """How far half the precision is from float32; a CPU that has no instructions for it makes one chunk, undecoded."""
        if not self.told.enough("in bfloat16", 5 if self.told.cuda else 15):
            return
        half = load_model(self.told.weights, device=self.told.device, dtype=torch.bfloat16)
        stream = open_stream(half, self.sample, self.chunks if self.told.cuda else 1)
        if self.told.cuda:
            self._pictures("in bfloat16", pull(stream, self.told.device).frames, 4 * LEVELS)
        latents = latents_of(stream)
        exact = self.golden.latents[:, :, : latents.shape[2]]
        self.told.row(f"in bfloat16, {latents.shape[2]} latents: from the CPU's in float32", difference(latents, exact))

    def _stopped_before(self, index: int) -> LatentStream:
        """A stream that was cancelled when its chunk `index` was about to be sampled."""
        token = CancelToken()
        stream = open_stream(self.model, self.sample, self.chunks, watch=lambda chunk: token.cancel() if chunk == index else None)
        with suppress(Cancelled):
            frames_of(stream, self.told.device, self.told.device, cancel=token)
        return stream

    def _pictures(self, what: str, frames: np.ndarray, limit: float = LEVELS) -> None:
        """From the CPU's."""
        apart = _apart(frames, self.golden.frames[: len(frames)])
        self.told.at_most(f"{what}: pictures from the CPU's, mean", float(apart.mean()), limit, "levels")
        self.told.row(f"{what}: the same, 99.9 of 100 pixels within", float(np.quantile(apart, 0.999)), "levels")


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Levels between pictures; all there are where the shapes differ."""
    return np.abs(a.astype(np.int16) - b) if a.shape == b.shape else np.full(1, 255)
