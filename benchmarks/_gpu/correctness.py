"""The bundled model through the real pipeline on the device, against the same code on the CPU in the same run.

Two bars. On one device the same stream must have equal bits however it was pulled: twice, by two sinks, after a cancel. Across
devices float32 sums are ordered otherwise: a hundredth of the latents' size, a level of the pictures on average. The CPU's own
latents are held against recorded ones, so that the reference itself is checked.
"""

from __future__ import annotations

import copy
import gc
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks._gpu.blocks import compiled_blocks
from benchmarks._gpu.pack import load_pack
from benchmarks._gpu.record import Recorder
from benchmarks._gpu.sample import Sample, frames_of, latents_of, load_sample, open_stream
from benchmarks._gpu.timing import difference
from tm_core.errors import Cancelled
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import LatentStream
from tm_core.streaming.pipeline import FrameChunk
from tm_core.weights.loading import load_model

CHUNKS = 9  # the window of positions begins to move at the eighth
RECORDED = (0, 1, 8)  # chunks kept in the pack
GOLDEN = "golden.latents"
APART = 0.01  # |latents - latents of the CPU| / |latents of the CPU|
LEVELS = 1.0  # of 255, mean of all pixels
FORGOTTEN_MB = 32.0  # that may stay allocated after a stream was given back


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What the CPU makes of the sample."""

    latents: Tensor
    frames: np.ndarray


def run(told: Recorder) -> None:
    """Every check by itself: one that fails leaves the others."""
    home = load_model(told.weights)
    sample = load_sample(home.config)
    stream = open_stream(home, sample, CHUNKS)
    golden = Golden(frames=frames_of(stream, "cpu", "cpu"), latents=latents_of(stream))
    told.row("reference", f"{golden.latents.shape[2]} latents, {len(golden.frames)} frames, computed on the CPU in this run")
    _against_recorded(told, golden)
    model = home if told.device == "cpu" else load_model(told.weights, device=told.device)
    for check in (_same_as_cpu, _decoded_on_cpu, _equal_twice, _two_sinks, _cancelled, _given_back, _half, _compiled):
        try:
            check(told, model, sample, golden)
        except Exception as error:
            told.failed(check.__name__.strip("_").replace("_", " "), error)


def record(pack: Path) -> None:
    """Writes what the CPU makes of a pack's sample into that pack."""
    with safe_open(str(pack), "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata())  # noqa: SIM118 - not a dict
    model = load_model()
    latents = latents_of(open_stream(model, load_sample(model.config), CHUNKS))
    save_file(tensors | {GOLDEN: _recorded_part(latents).half().contiguous()}, pack, metadata)


def _recorded_part(latents: Tensor) -> Tensor:
    n = latents.shape[2] // CHUNKS
    return torch.cat([latents[:, :, n * i : n * (i + 1)] for i in RECORDED], 2)


def _against_recorded(told: Recorder, golden: Golden) -> None:
    recorded = load_pack()[0].get(GOLDEN)
    what = "the CPU's latents from the recorded ones"
    if recorded is None or told.weights is not None:
        told.unable(what, "the pack has none of these weights")
        return
    told.at_most(what, difference(_recorded_part(golden.latents), recorded), APART)


def _compare(told: Recorder, what: str, frames: np.ndarray, golden: np.ndarray, limit: float = LEVELS) -> None:
    """Pictures of two devices."""
    same = frames.shape == golden.shape
    apart = np.abs(frames.astype(np.int16) - golden) if same else np.full(1, 255)
    told.at_most(f"{what}: pictures from the CPU's, mean", float(apart.mean()), limit, "levels")
    told.row(f"{what}: the same, 99.9 of 100 pixels within", float(np.quantile(apart, 0.999)), "levels")


def _same_as_cpu(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    stream, seen = open_stream(model, sample, CHUNKS), list[FrameChunk]()
    frames = frames_of(stream, told.device, told.device, seen=seen.append)
    told.at_most("denoised and decoded there: latents from the CPU's", difference(latents_of(stream), golden.latents), APART)
    _compare(told, "denoised and decoded there", frames, golden.frames)
    ends = [chunk.pts + len(chunk.frames) for chunk in seen]
    told.true("its chunks follow one another without a hole", [c.pts for c in seen] == [0, *ends[:-1]] and ends[-1] == len(golden.frames))


@torch.inference_mode()
def _decoded_on_cpu(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    """Latents must have arrived before the CPU reads them: what it decodes is what it makes of the finished latents."""
    vae = copy.deepcopy(model.vae).to("cpu")  # type: ignore[attr-defined]
    stream = open_stream(model, sample, CHUNKS)
    frames = frames_of(stream, told.device, "cpu", vae)
    _compare(told, "denoised there, decoded on the CPU", frames, golden.frames)
    again = frames_of(stream, "cpu", "cpu", vae)  # nothing is sampled any more: these are read from the disk
    apart = int(np.abs(frames.astype(np.int16) - again).max())
    told.at_most("denoised there, decoded on the CPU: from decoding the finished latents, at most", apart, 1, "levels")


def _equal_twice(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    runs = [open_stream(model, sample, CHUNKS) for _ in range(2)]
    frames = [frames_of(s, told.device, told.device) for s in runs]
    told.true("the same stream twice: latents of equal bits", torch.equal(*(latents_of(s) for s in runs)))
    told.true("the same stream twice: pictures of equal bits", np.array_equal(*frames))


def _two_sinks(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    alone = frames_of(open_stream(model, sample, CHUNKS), told.device, told.device)
    stream, found = open_stream(model, sample, CHUNKS), dict[int, np.ndarray]()

    def pull(sink: int) -> None:
        found[sink] = frames_of(stream, told.device, told.device)

    sinks = [threading.Thread(target=pull, args=(i,), daemon=True) for i in range(2)]
    for sink in sinks:
        sink.start()
    for sink in sinks:
        sink.join(max(1.0, told.left()))
    told.true("two sinks at once: both see what one alone sees", len(found) == 2 and all(np.array_equal(f, alone) for f in found.values()))
    told.at_most("two sinks at once: chunks sampled", stream.sampled, CHUNKS)


def _cancelled(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    whole = open_stream(model, sample, CHUNKS)
    exact = frames_of(whole, told.device, told.device)
    stream, token = open_stream(model, sample, CHUNKS), CancelToken()

    def stop(chunk: FrameChunk) -> None:
        if chunk.index == 2:
            token.cancel()

    with suppress(Cancelled):
        frames_of(stream, told.device, told.device, cancel=token, seen=stop)
    told.true("cancelled after its third chunk: it stopped", token.cancelled and stream.available < CHUNKS)
    told.true("cancelled and pulled again: pictures of equal bits", np.array_equal(frames_of(stream, told.device, told.device), exact))
    told.true("cancelled and pulled again: latents of equal bits", torch.equal(latents_of(stream), latents_of(whole)))


def _given_back(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    what = "a stream stopped half-way and given back: memory that stays"
    if not told.cuda:
        told.unable(what, "the CPU's allocator keeps no account")
        return
    before = _allocated()
    _stopped(model, sample, told.device).release()
    told.at_most(what, (_allocated() - before) / 1e6, FORGOTTEN_MB, "MB")


def _allocated() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def _stopped(model: TalkingModel, sample: Sample, device: str) -> LatentStream:
    stream, token = open_stream(model, sample, CHUNKS), CancelToken()
    with suppress(Cancelled):
        frames_of(stream, device, device, cancel=token, seen=lambda chunk: token.cancel() if chunk.index == 4 else None)
    return stream


def _half(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    half = load_model(told.weights, device=told.device, dtype=torch.bfloat16)
    stream = open_stream(half, replace(sample, rows=sample.rows), CHUNKS)
    frames = frames_of(stream, told.device, told.device)
    told.row("in bfloat16: latents from the CPU's in float32", difference(latents_of(stream), golden.latents))
    _compare(told, "in bfloat16", frames, golden.frames, 4 * LEVELS)


def _compiled(told: Recorder, model: TalkingModel, sample: Sample, golden: Golden) -> None:
    if not told.enough("blocks compiled", 25 if told.cuda else 5):
        return
    stream = open_stream(model, sample, CHUNKS)
    with compiled_blocks(model.dit, told.device) as backend:
        latents = latents_of(stream)
    told.at_most(f"blocks compiled ({backend}): latents from the CPU's", difference(latents, golden.latents), APART)


