"""The bundled decoder against its plain formula, in turn: time of a chunk, difference of the pixels; and a face drawn at 512 pixels.

The plain formula is the one that training uses (TinyVAE.decode_groups): it convolves the portrait's features with every frame's,
at double size. Both run on the calling thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import Result, demo_portrait, load, result, say
from tm_core import talk
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.talk.framing import framed, view_of
from tm_core.vae.rendering import FaceRenderer
from tm_core.vae.tiny import TinyVAE

MAX_TIME_RATIO, MAX_LEVELS = 0.68, 0.01
SIDE, MAX_DRAWN_MS = 512, 180  # pixels; of one thread
TURNS, WARM = 15, 3


def run(*, weights: Path | None = None, device: str = "auto") -> list[Result]:
    """Ratio of the times and the largest difference of a pixel."""
    model = load(weights, device)
    portrait = talk.prepare_portrait(open_image(demo_portrait()), model.config).image
    chunk = model.config.sampler.chunk_latents
    with torch.inference_mode():
        return rows(model.vae, portrait, chunk, TURNS) + drawn_rows(model, open_image(demo_portrait()), TURNS)


def drawn_rows(model: TalkingModel, picture: np.ndarray, turns: int) -> list[Result]:
    """Time in which one thread makes frames of SIDE pixels of a chunk, the mouth included."""
    portrait = talk.prepare_portrait(picture, model.config)
    renderer = FaceRenderer(model.vae, framed(view_of(portrait), "face", SIDE), portrait.image)
    still = model.vae.encode_image(portrait.image.to(model.vae.shift))[:, None]
    size = (2, *still.shape[:1], model.config.sampler.chunk_latents, *still.shape[2:])
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    first, second = (still[None] + 0.5 * noise.to(still)).split(1)
    _, state = renderer(first, renderer.open())
    [times] = in_turn([lambda: renderer(second, state)], turns)
    time_ms = 1e3 * statistics.median(times)
    return [result(f"drawing a chunk at {SIDE} px", time_ms, "ms", f"<= {MAX_DRAWN_MS:g}", time_ms <= MAX_DRAWN_MS)]


def rows(vae: TinyVAE, portrait: Tensor, chunk: int, turns: int) -> list[Result]:
    """The figures of chunks of so many latents, timed `turns` times each way."""
    still = vae.encode_image(portrait.to(vae.shift))[:, None]
    noise = torch.randn(2, *still.shape[:1], chunk, *still.shape[2:], generator=torch.Generator().manual_seed(0))
    first, second = (still[None] + 0.5 * noise.to(still)).split(1)
    plain, state = PlainDecoder(vae, portrait.to(vae.shift)), vae.open_decoder(portrait)
    shown, state = vae.decode(first, state)
    differences = [shown - plain(first), vae.decode(second, state)[0] - plain(second)]
    say(f"{turns} chunks of {chunk} latents each way, in turn")
    times = in_turn([lambda: plain(second), lambda: vae.decode(second, state)], turns)
    old, new = (statistics.median(t) for t in times)
    levels = 255 * max(float(d.abs().max()) for d in differences)
    return [
        result("decoding a chunk", 1e3 * new, "ms"), result("the same by the plain formula", 1e3 * old, "ms"),
        result("time over the plain formula's", new / old, "x", f"<= {MAX_TIME_RATIO:g}", new / old <= MAX_TIME_RATIO),
        result("largest difference of a pixel", levels, "levels of 255", f"<= {MAX_LEVELS:g}", levels <= MAX_LEVELS),
    ]


class PlainDecoder:
    """Chunks decoded by `decode_groups`; the portrait's features are kept, nothing made of them is."""

    def __init__(self, vae: TinyVAE, reference: Tensor) -> None:
        self._vae, self._reference = vae, reference[None]
        self._features = vae.frame(self._reference)
        self._still = vae.still(self._features)
        self._last: Tensor | None = None

    def __call__(self, latents: Tensor) -> Tensor:
        """Frames (T, 3, H, W) of the next latents (1, C, F, h, w)."""
        raw = self._vae.denormalise(latents)[0].transpose(0, 1)
        first = raw[:1] if self._last is None else self._last
        half, quarter, eighth, still, picture = (t.expand(len(raw), -1, -1, -1) for t in (*self._features, self._still, self._reference))
        made = self._vae.decode_groups(raw, torch.cat([first, raw[:-1]]), still, (half, quarter, eighth), picture)
        frames = made.frames.flatten(0, 1)[3 if self._last is None else 0 :]
        self._last = raw[-1:]
        return frames


def in_turn(works: list[Callable[[], object]], turns: int) -> list[list[float]]:
    """Seconds that the calling thread computed, of each work in each turn after the first few."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(WARM + turns):
        for work, spent in zip(works, times, strict=True):
            began = time.thread_time()
            work()
            if turn >= WARM:
                spent.append(time.thread_time() - began)
    return times
