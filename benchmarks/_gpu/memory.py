"""Memory of a second run: what a process holds after one stream, two, three, and after one that was stopped.

The 14B shape with few of its blocks, so that keys and values are gigabytes and a run takes seconds. A new stream of the allocator for
every run would strand the last run's pool: reserved memory would grow while allocated memory does not.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from benchmarks._gpu.large import SAMPLING, SMALL_VAES, VAES, Case, build, cases, decoder_type, frame_stream, scene_of, small_case
from benchmarks._gpu.record import Recorder
from benchmarks._gpu.timing import allocated_mb
from tm_core.errors import Cancelled
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cache_size import cache_size
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.metrics import current_rss_mb
from tm_core.streaming.sampler import Scene

BLOCKS, CHUNKS, RUNS = 8, 5, 4
MB = 1e6
GROWTH_MB = 256.0  # from the first run to the last: blocks of the allocator that fit nothing else, or libraries of the CPU
KEPT_MB = 64.0  # of a stream that was given back


def run(told: Recorder) -> None:
    """Runs in turn, each a new stream through the pipeline with a new decoder; then one that is stopped half-way."""
    case = _case(told.cuda)
    model, scene = build(case, told.device, "bf16"), scene_of(case, told.device)
    vae = (VAES if told.cuda else SMALL_VAES)["TAEHV"](device=told.device, dtype=decoder_type(told.device)).eval().requires_grad_(False)
    before = _held(told)
    told.row("before the first run", before, "MB")
    held = []
    for i in range(RUNS):
        _stream(told, model, vae, scene)
        held.append(_held(told))
        told.row(f"after run {i + 1}", held[-1], "MB")
    told.at_most("from the first run to the last: growth of what the process holds", held[-1] - held[0], GROWTH_MB, "MB")
    empty = allocated_mb(told.device)
    _stream(told, model, vae, scene, stop=2)
    cache = cache_size(case.config.dit, SAMPLING, case.config.latent_hw, torch.bfloat16).total / MB
    limit = min(KEPT_MB, cache / 2)
    told.at_most("a stream stopped half-way: what stays allocated", allocated_mb(told.device) - empty, limit, "MB")
    told.at_most("after it: growth of what the process holds", _held(told) - held[0], GROWTH_MB, "MB")


def _case(large: bool) -> Case:
    if not large:
        return small_case("own_q_kv_proj")
    whole = next(c for c in cases() if c.config.dit.audio_kind == "own_q_kv_proj")
    return replace(whole, config=replace(whole.config, dit=replace(whole.config.dit, num_layers=BLOCKS)))


def _stream(told: Recorder, model: TalkingModel, vae: object, scene: Scene, stop: int | None = None) -> None:
    """One run to its end, or cancelled after chunk `stop`."""
    stream, token = frame_stream(model, vae, scene, told.device, CHUNKS), CancelToken()
    try:
        for chunk in stream.chunks(cancel=token):
            if chunk.index == stop:
                token.cancel()
    except Cancelled:
        stream.latents.release()


def _held(told: Recorder) -> float:
    """What the process keeps from others, in MB: the allocator's reserve, or resident memory."""
    gc.collect()
    if not told.cuda:
        return current_rss_mb()
    torch.cuda.synchronize()
    return torch.cuda.memory_reserved() / MB
