"""Whether a clip's sound belongs to its lips: by lip gap and heard phones, or by SyncNet where that is asked for.

The paper (section 3) takes SyncNet's confidence to tell Speaking from Silence. `SyncCheck` is what a check must be; the lips'
own check correlates the gap with the opening that pocketsphinx hears (metrics/lip_sync.py), or with loudness where it is not
installed, within and beyond a few frames of offset. Chance alone reaches a peak of about 1 / sqrt(seconds) over all
offsets, so an offset counts only when it leads clearly.
Shapes: T frames, n samples at 16 kHz. Offsets in frames, positive where the picture is late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...metrics.lip_sync import CURVE_RATE, lag_curve, lip_gap, loudness, opening_curve
from ...metrics.phones import Phone
from ...metrics.syncnet import SyncNet, load_syncnet, sync_confidence
from .thresholds import FootageConfig


@dataclass(frozen=True, kw_only=True)
class ClipToCheck:
    """A clip as a sync check is given it: crop (T, S, S, 3) uint8, landmarks (T, 468, 3) in it, samples (n,), phones if heard."""

    frames: np.ndarray
    landmarks: np.ndarray
    samples: np.ndarray
    phones: Sequence[Phone] | None
    fps: float


@dataclass(frozen=True, kw_only=True)
class SyncVerdict:
    """By which method, how sure (r of the lips, Sync-C of SyncNet), at which offset; `reason` to drop, or None."""

    method: str
    confidence: float
    offset_frames: int
    reason: str | None


class SyncCheck(Protocol):
    """A check of sync."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        ...

    def __call__(self, clip: ClipToCheck) -> SyncVerdict: ...


@dataclass(frozen=True, kw_only=True)
class LipSyncCheck:
    """Lip gap against what is heard."""

    cfg: FootageConfig
    name: str = "lips"

    def __call__(self, clip: ClipToCheck) -> SyncVerdict:
        """Drops clips whose best offset is beyond a frame or two, or that follow the sound at none."""
        heard = clip.phones is not None
        opening = heard_opening(clip)
        lags, r = lag_curve(lip_gap(clip.landmarks), opening, clip.fps)
        near = np.abs(lags) <= self.cfg.most_offset
        best, best_near = int(r.argmax()), float(r[near].max())
        early_or_late = float(r[best]) > max(best_near + self.cfg.least_lead, self.cfg.least_peak_r)
        reason = "off_sync" if early_or_late else "not_speaking" if best_near < self.cfg.least_peak_r else None
        offset = int(lags[best]) if early_or_late else int(lags[near][r[near].argmax()])
        return SyncVerdict(
            method="lips" if heard else "loudness", confidence=float(r[best] if early_or_late else best_near),
            offset_frames=offset, reason=reason)


@dataclass(frozen=True, kw_only=True)
class SyncNetCheck:
    """Sync-C and the offset of tm_core.metrics.syncnet."""

    cfg: FootageConfig
    net: SyncNet
    name: str = "syncnet"

    def __call__(self, clip: ClipToCheck) -> SyncVerdict:
        """Too little confidence, or an offset beyond most_offset, drops a clip."""
        score = sync_confidence(self.net, clip.frames, clip.landmarks, clip.samples, clip.fps)
        sure, offset = float(score.sync_c), int(score.offset_frames)
        reason = "not_speaking" if sure < self.cfg.least_sync_c else "off_sync" if abs(offset) > self.cfg.most_offset else None
        return SyncVerdict(method="syncnet", confidence=sure, offset_frames=offset, reason=reason)


def heard_opening(clip: ClipToCheck) -> np.ndarray:
    """(T,) how far the sound says that the lips are open: by phones, or by loudness where none were heard."""
    count = len(clip.landmarks)
    if clip.phones is not None:
        return opening_curve(clip.phones, clip.samples, count, clip.fps)
    level = loudness(clip.samples, int(count / clip.fps * CURVE_RATE) + CURVE_RATE)
    at = (np.arange(count) + 0.5) / clip.fps * CURVE_RATE
    return np.asarray(np.interp(at, np.arange(len(level)) + 0.5, np.clip(level, 0, 1)))


def make_sync_check(cfg: FootageConfig) -> SyncCheck | None:
    """The check that is asked for, if any; InputError for a SyncNet whose weights are not there."""
    if cfg.sync == "off":
        return None
    if cfg.sync == "lips":
        return LipSyncCheck(cfg=cfg)
    return SyncNetCheck(cfg=cfg, net=load_syncnet())
