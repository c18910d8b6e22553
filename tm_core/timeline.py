"""Time is data: the one place that knows how frames, latents, chunks and sound relate.

Latent 0 is one frame, every later latent `stride` frames; chunk 0 of n latents is 1 + stride (n - 1)
frames, later chunks stride n; some families' first chunk is longer. Frame f shows the sound of [f, f + 1) / fps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Frame rate, temporal stride of the autoencoder and latents per chunk."""

    fps: Fraction
    chunk_latents: int = 3
    stride: int = 4
    first_latents: int | None = None  # of chunk 0, where it is longer

    def num_frames(self, duration_s: float) -> int:
        """Frames of a sound: nearest whole number, at least one."""
        return max(1, round(Fraction(duration_s).limit_denominator(10**6) * self.fps))

    def num_latents(self, frames: int) -> int:
        """Latents that cover `frames` frames."""
        return 1 + math.ceil((frames - 1) / self.stride)

    def num_chunks(self, frames: int) -> int:
        """Chunks that cover `frames` frames; the last one is trimmed to the sound."""
        rest = self.num_latents(frames) - (self.first_latents or self.chunk_latents)
        return 1 + max(0, math.ceil(rest / self.chunk_latents))

    def frames_of_latent(self, i: int) -> range:
        """Video frames latent i decodes to."""
        return range(0, 1) if i == 0 else range(self.stride * (i - 1) + 1, self.stride * i + 1)

    def latents_of_chunk(self, t: int) -> range:
        """Latent indices of chunk t."""
        lead = self.first_latents or self.chunk_latents
        return range(lead + (t - 1) * self.chunk_latents, lead + t * self.chunk_latents) if t else range(lead)

    def frames_of_chunk(self, t: int) -> range:
        """Video frames chunk t decodes to."""
        latents = self.latents_of_chunk(t)
        return range(self.frames_of_latent(latents[0])[0], self.frames_of_latent(latents[-1])[-1] + 1)

    def window_frames(self, i: int, window_latents: int) -> range:
        """Video frames whose sound latent i sees: `window_latents` latents centred on its own.

        Latent 0 counts as a full group that ends with frame 0, so one formula serves every index;
        frames before 0 or after the end are silence.
        """
        reach = self.stride * (window_latents // 2)
        return range(self.stride * (i - 1) + 1 - reach, self.stride * i + 1 + reach)

    def lookahead_frames(self, window_latents: int) -> int:
        """Frames of future sound the last frame of a latent needs."""
        return self.stride * (window_latents // 2)
