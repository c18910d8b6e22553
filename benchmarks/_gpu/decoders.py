"""WanVAE and TAEHV at 512 x 512 with random weights, a chunk of three latents: type, layout, compiled; what their state weighs."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn

from benchmarks._gpu.blocks import backend_of
from benchmarks._gpu.large import SMALL_VAES, VAES, chunk_times, warm_decodes
from benchmarks._gpu.record import Recorder
from tm_core.streaming.workers import to_uint8

CHUNKS = 6
LAYOUTS = ("contiguous", "channels last")
COMPILE_S = 60.0
ONE_LATENT = {"Wan VAE": "decoder", "TAEHV": "_frames"}  # what decodes one latent: the whole of `decode` would be unrolled for three


def run(told: Recorder) -> None:
    """Each autoencoder in each way; what fails is a row."""
    types = (torch.bfloat16, torch.float16, torch.float32) if told.cuda else (torch.float32,)  # half of it is slow without instructions
    ways = [(dtype, layout) for dtype in types for layout in LAYOUTS]
    for compiled, chosen in ((False, ways), (True, ways[: 2 if told.cuda else 1])):
        for name in VAES:
            for dtype, layout in chosen:
                what = f"{name}, {str(dtype)[6:]}, {layout}{', compiled' if compiled else ''}"
                if not told.enough(what, (COMPILE_S if compiled else 8) if told.cuda else 20 if compiled else 1):
                    continue
                try:
                    _measure(told, what, name, dtype, layout, compiled)
                except Exception as error:
                    told.failed(what, error)
                gc.collect()
                if told.cuda:
                    torch.cuda.empty_cache()


def _channels_last(vae: nn.Module) -> None:
    """Weights of every convolution with the channels innermost, of 2D and 3D ones alike; pictures follow them."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.inference_mode()
def _measure(told: Recorder, what: str, name: str, dtype: torch.dtype, layout: str, compiled: bool) -> None:
    """Decoding a chunk to uint8 pictures on the host."""
    side, device = (64 if told.cuda else 2), told.device  # of the latents
    vae: Any = (VAES if told.cuda else SMALL_VAES)[name](device=device, dtype=dtype).eval().requires_grad_(False)
    if layout != LAYOUTS[0]:
        _channels_last(vae)
    if compiled:
        torch.compiler.reset()
        backend = backend_of(device) if told.cuda else "eager"  # a CPU traces it alone, the other takes it a minute
        setattr(vae, ONE_LATENT[name], torch.compile(getattr(vae, ONE_LATENT[name]), dynamic=False, backend=backend))
        what = f"{what} ({backend})"
    if told.cuda:
        torch.cuda.reset_peak_memory_stats()
    latents, state = torch.randn(1, 16, 3, side, side, device=device), vae.open_decoder(None)

    def step() -> None:
        nonlocal state
        frames, state = vae.decode(latents, state)
        to_uint8(frames)

    took = chunk_times(step, device, CHUNKS if told.cuda else 1, warm_decodes(device))
    told.row(f"{what}: decoding 3 latents, {8 * side} x {8 * side}", took, "ms")
    told.row(f"{what}: its state", state.nbytes / 1e6, "MB")
    if told.cuda:
        told.row(f"{what}: peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
