"""Frames of chunks that may come again: the decoder's state at the last boundaries is kept. Paper section 5 (interruption).

Non-goals: which chunk is wanted (avatar). Shapes: F latents, T frames, H x W the picture.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..vae.rendering import FaceRenderer, FaceView
from ..vae.tiny import TinyVAE

KEPT = 32  # boundaries, of chunks
SLOWEST_S, RECENT = 2.0, 0.2  # a step that took longer counts as so long; weight of the newest in the mean


def mean_of(before_s: float, newest_s: float) -> float:
    """The mean time of a step, with its newest value."""
    return before_s + RECENT * (min(SLOWEST_S, newest_s) - before_s)


class BoundaryDecoder:
    """One stream's, on the thread that decodes."""

    def __init__(self, vae: TinyVAE, view: FaceView, reference: Tensor) -> None:
        """`reference` (3, h, w) is the portrait as the autoencoder sees it, where it computes."""
        self._vae, self._view, self._reference = vae, view, reference
        self._states: dict[int, Any] = {}
        self._renderer: FaceRenderer | None = None
        self.mean_s = 0.1  # that a chunk took of late

    def prepare(self) -> None:
        """Made while the first chunk is denoised."""
        self._renderer = FaceRenderer(self._vae, self._view, self._reference)
        self._states[0] = self._renderer.open()

    def draw(self, index: int, latents: Tensor, first: int, speaking: NDArray[np.float64], every: int) -> NDArray[np.uint8]:
        """Frames (T, H, W, 3) of chunk `index`, from its latents (1, C, F, h, w); the others are FaceRenderer's."""
        assert self._renderer is not None, "prepare first"
        began = time.monotonic()
        latents = latents.to(self._reference.device, self._reference.dtype)
        frames, self._states[index + 1] = self._renderer(latents, self._states[index], first, speaking, every)
        self.mean_s = mean_of(self.mean_s, time.monotonic() - began)
        for old in [k for k in self._states if k < index - KEPT]:
            del self._states[old]
        return frames
