"""What a live model hears: the sound of the last seconds, and windows over it and over what already follows. Paper section 3.2.

Sound that was decided on ahead can be taken back. Non-goals: where the sound comes from (speech_queue), locks (whoever owns it).
Shapes: n samples at the model's rate, F latents, W rows of a window, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..audio.features import log_mel, silence_row
from ..audio.windows import window_rows
from ..config import AudioConfig
from ..timeline import Timeline
from .speech_queue import Floats

KEPT_S = 3.0  # of the past sound, for windows
WARM_ROWS = 8  # feature rows before those that are wanted: the first ones of a piece see silence before it


@dataclass(frozen=True, kw_only=True)
class PastSound:
    """Samples (n,) that end with frame `end_frame` of the model's time. A value: each change is another one."""

    cfg: AudioConfig
    timeline: Timeline
    samples: Floats
    end_frame: int = 0

    @classmethod
    def none(cls, cfg: AudioConfig, timeline: Timeline) -> PastSound:
        """Before the first frame."""
        return cls(cfg=cfg, timeline=timeline, samples=np.zeros(0, np.float32))

    @property
    def frame_samples(self) -> int:
        """Samples of a frame of video."""
        return int(self.cfg.sample_rate / self.timeline.fps)

    def followed_by(self, samples: Floats | None, frames: range) -> PastSound:
        """And these frames' samples; None: silence."""
        new = np.zeros(len(frames) * self.frame_samples, np.float32) if samples is None else samples
        kept = np.concatenate([self.samples, new])[-round(KEPT_S * self.cfg.sample_rate) :]
        return PastSound(cfg=self.cfg, timeline=self.timeline, samples=kept, end_frame=frames.stop)

    def until(self, frame: int) -> PastSound:
        """Without what was said from a frame on."""
        taken = (self.end_frame - frame) * self.frame_samples
        kept = self.samples[: max(0, len(self.samples) - taken)]
        return PastSound(cfg=self.cfg, timeline=self.timeline, samples=kept, end_frame=frame)

    def windows(self, latents: range, follows: Floats, goes_on: bool) -> Tensor:
        """Windows (F, W, M): the past and what `follows` (n,); the last row is held beyond where more will come, else it is silent."""
        cfg, hop = self.cfg, self.cfg.hop
        start = self.end_frame * self.frame_samples - len(self.samples)
        lead = -start % hop  # rows lie on the stream's own grid
        rows, first = log_mel(np.concatenate([self.samples[lead:], follows]), cfg), (start + lead) // hop
        if first:
            rows, first = rows[WARM_ROWS:], first + WARM_ROWS
        beyond = rows[-1] if goes_on and len(rows) else silence_row(cfg)
        out = []
        for latent in latents:
            at = np.asarray(window_rows(latent, self.timeline, cfg)) - first
            row = rows[np.clip(at, 0, len(rows) - 1)].copy()
            row[at >= len(rows)] = beyond
            row[at < 0] = silence_row(cfg)
            out.append(row)
        return torch.from_numpy(np.stack(out))
