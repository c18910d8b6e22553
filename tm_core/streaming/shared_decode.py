"""One decode for two: whoever shows a clip and the sampler, whom its last frames lead on, ask for the same frames.

Whoever comes first decodes, the other waits for it; each may run on a stream of its own of one GPU. Kept are the frames that
lead, and all of a clip only until they are shown. A second reader of a stream reads copies of the clips from disk and decodes them
for itself: what leads the sampler stays untouched. Non-goals: frames of two devices or of two autoencoders, which are not shared.

Shapes: C latent channels, F latents of a clip, T frames.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from ..vae.base import StreamingVAE, device_of, dtype_of
from .workers import mark_made, to_worker


class SharedDecode:
    """Frames of the clip that was sampled last, known by the very tensor its latents are."""

    def __init__(self, vae: StreamingVAE, tail: int) -> None:
        """`tail`: how many of a clip's last frames lead the next."""
        self.vae, self._tail = vae, tail
        self._lock = threading.Lock()
        self._newest: Tensor | None = None  # latents of the clip that the sampler goes on from
        self._last: Tensor | None = None
        self._all: Tensor | None = None
        self._done: Any = None

    def sampled(self, latents: Tensor) -> None:
        """A clip has been sampled, by a sampler that will ask for the frames that lead on from it."""
        with self._lock:
            if self._newest is not latents:
                self._newest, self._last, self._all = latents, None, None

    def shown(self, latents: Tensor, picture: Tensor | None, made: Any = None) -> Tensor:
        """All frames (T, 3, H, W) of a clip's latents (1, C, F, h, w), in the autoencoder's type; `made` as in to_worker."""
        with self._lock:
            if self._newest is not latents:
                return self._decode(latents, picture, made)
            if self._all is None:
                frames = self._decode(latents, picture, made)
                self._keep(frames, None)
                return frames
            frames, self._all = self._taken(self._all), None
            return frames

    def leading(self, latents: Tensor, picture: Tensor | None) -> Tensor:
        """The clip's last frames."""
        with self._lock:
            if self._newest is not latents:
                self._newest, self._last, self._all = latents, None, None
            if self._last is None:
                frames = self._decode(latents, picture)
                self._keep(frames, frames)
            assert self._last is not None
            return self._taken(self._last)

    def _keep(self, frames: Tensor, all_of_them: Tensor | None) -> None:
        self._last, self._all, self._done = frames[-self._tail :].clone(), all_of_them, mark_made(frames)

    def _decode(self, latents: Tensor, picture: Tensor | None, made: Any = None) -> Tensor:
        place, kind = device_of(self.vae), dtype_of(self.vae)
        reference = None if picture is None else picture.to(place, kind)
        frames, _ = self.vae.decode(to_worker(latents, place, kind, made), self.vae.open_decoder(reference))
        return frames

    def _taken(self, frames: Tensor) -> Tensor:
        """Frames that may have been made on another stream of the GPU, safe to use on this one."""
        if self._done is not None:
            stream = torch.cuda.current_stream(frames.device)
            stream.wait_event(self._done)
            frames.record_stream(stream)
        return frames
