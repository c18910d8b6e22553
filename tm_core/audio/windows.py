"""One audio window per latent frame, by absolute index (paper section 3: five latents, centred).

The window of latent i is the feature rows of `Timeline.window_frames(i)`; rows before the sound or after it
are silence. Nothing depends on where a chunk begins, so a stream's windows equal the file's.

Shapes: R rows, F latents, W rows of a window, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AudioConfig
from ..timeline import Timeline
from .features import silence_row

Floats = NDArray[np.float32]


def window_rows(i: int, timeline: Timeline, cfg: AudioConfig) -> range:
    """Feature rows that the window of latent i covers; may begin before 0.

    At frame rates that do not divide the feature rate the first row is rounded, the length never varies.
    """
    frames = timeline.window_frames(i, cfg.window_latents)
    per_frame = Fraction(cfg.feature_rate) / timeline.fps
    first = round(frames.start * per_frame)
    return range(first, first + round(len(frames) * per_frame))


def window(features: Floats, i: int, timeline: Timeline, cfg: AudioConfig, first: int = 0) -> Floats:
    """Window (W, M) of latent i of a sound's feature rows (R, M), the first of which is row number `first`."""
    rows = window_rows(i, timeline, cfg)
    out: Floats = np.broadcast_to(silence_row(cfg), (len(rows), cfg.n_mels)).copy()
    low, high = max(rows.start, first), min(rows.stop, first + len(features))
    if low < high:
        out[low - rows.start : high - rows.start] = features[low - first : high - first]
    return out


def windows(features: Floats, latents: range, timeline: Timeline, cfg: AudioConfig) -> Floats:
    """Windows (F, W, M) of consecutive latents."""
    return np.stack([window(features, i, timeline, cfg) for i in latents])


def rows_needed(latents: range, timeline: Timeline, cfg: AudioConfig) -> int:
    """Feature rows that must exist before these latents' windows are final (a live stream waits for them)."""
    return max(0, window_rows(latents[-1], timeline, cfg).stop)


@dataclass(frozen=True, kw_only=True)
class MelFeatures:
    """A sound as our own models hear it: log-mel rows (R, M) on the time axis of a video."""

    rows: Floats
    timeline: Timeline
    cfg: AudioConfig

    def windows(self, latents: range, *, each_clip: bool = False) -> Tensor:
        """Windows (F, W, M) of consecutive latents; a window is the same wherever a clip begins."""
        return torch.from_numpy(windows(self.rows, latents, self.timeline, self.cfg))
