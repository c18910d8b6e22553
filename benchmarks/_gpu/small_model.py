"""Speed of the bundled model: a chunk denoised and decoded, one after the other and through the pipeline."""

from __future__ import annotations

import time

import torch

from benchmarks._gpu.record import Recorder
from benchmarks._gpu.sample import frames_of, load_sample, open_stream
from benchmarks._gpu.timing import wait
from tm_core.streaming.handles import LatentStream
from tm_core.streaming.pipeline import FrameChunk
from tm_core.weights.loading import load_model

WARM, WARM_CPU = 4, 2


def run(told: Recorder) -> None:
    """Chunks of three latents and of seven; milliseconds a chunk, and how much faster than real time."""
    model = load_model(told.weights, device=told.device)
    sample, (warm, chunks) = load_sample(model.config), (WARM, 60) if told.cuda else (WARM_CPU, 3)
    for n in (3, 7):
        source = open_stream(model, sample, warm + chunks, chunk_latents=n)
        denoising = _sampling_ms(source, told.device, warm, chunks)
        told.row(f"denoising a chunk of {n} latents", denoising, "ms")
        shown = list[float]()

        def note(chunk: FrameChunk, shown: list[float] = shown) -> None:
            shown.append(time.perf_counter())

        frames_of(open_stream(model, sample, warm + chunks, chunk_latents=n), told.device, told.device, seen=note)
        between = (shown[-1] - shown[warm - 1]) / chunks * 1000
        told.row(f"a chunk of {n} latents through the pipeline", between, "ms")
        told.row("the same, times real time", 4 * n * 1000 / model.config.fps / between)


def _sampling_ms(stream: LatentStream, device: str, warm: int, chunks: int) -> float:
    """Of the sampler alone."""
    iterator, began = stream.chunks(), 0.0
    with torch.inference_mode():
        for i, _ in enumerate(iterator):
            if i == warm - 1:
                wait(device)
                began = time.perf_counter()
    wait(device)
    return (time.perf_counter() - began) / chunks * 1000
