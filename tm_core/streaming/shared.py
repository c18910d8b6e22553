"""One decode for two: whoever shows a clip and the sampler, whom its last frames lead on, ask for the same frames.

Whoever comes first decodes, the other waits for it; each may run on a stream of its own of one GPU. Kept are the frames that
lead, and all of a clip only until they are shown. Non-goals: frames of two devices or of two autoencoders, which are not shared.

Shapes: C latent channels, F latents of a clip, T frames.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from ..vae.base import StreamingVAE, device_of, dtype_of
from .pipeline import to_worker


class SharedDecode:
    """Frames of the clip that was decoded last, known by the very tensor its latents are."""

    def __init__(self, vae: StreamingVAE, tail: int) -> None:
        """`tail`: how many of a clip's last frames lead the next."""
        self.vae, self._tail = vae, tail
        self._lock = threading.Lock()
        self._latents: Tensor | None = None
        self._last: Tensor | None = None
        self._all: Tensor | None = None
        self._done: Any = None

    def shown(self, latents: Tensor, picture: Tensor | None) -> Tensor:
        """All frames (T, 3, H, W) of a clip's latents (1, C, F, h, w), in the autoencoder's type."""
        with self._lock:
            if self._latents is latents and self._all is not None:
                frames, self._all = self._taken(self._all), None
                return frames
            return self._decode(latents, picture)

    def leading(self, latents: Tensor, picture: Tensor | None) -> Tensor:
        """The clip's last frames."""
        with self._lock:
            if self._latents is not latents or self._last is None:
                self._all = self._decode(latents, picture)
            assert self._last is not None
            return self._taken(self._last)

    def _decode(self, latents: Tensor, picture: Tensor | None) -> Tensor:
        place, kind = device_of(self.vae), dtype_of(self.vae)
        reference = None if picture is None else picture.to(place, kind)
        frames, _ = self.vae.decode(to_worker(latents, place, kind), self.vae.open_decoder(reference))
        self._latents, self._last, self._all = latents, frames[-self._tail :].clone(), None
        self._done = torch.cuda.current_stream(place).record_event() if place.type == "cuda" else None
        return frames

    def _taken(self, frames: Tensor) -> Tensor:
        """Frames that may have been made on another stream of the GPU, safe to use on this one."""
        if self._done is not None:
            stream = torch.cuda.current_stream(frames.device)
            stream.wait_event(self._done)
            frames.record_stream(stream)
        return frames
