"""Whether a clip's sound belongs to its lips: by SyncNet where there is one, by lip gap and heard phones otherwise.

The paper (section 3) takes SyncNet's confidence to tell Speaking from Silence. `Judge` is what a check must be; the lips'
own judge correlates the gap with the opening that pocketsphinx hears (metrics/sync.py), or with loudness where it is not
installed, within and beyond a few frames of offset. Chance alone reaches a peak of about 1 / sqrt(seconds) over all
offsets, so an offset counts only when it leads clearly.
Shapes: T frames, n samples at 16 kHz. Offsets in frames, positive where the picture is late.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ...errors import InputError
from ...metrics.phones import Phone
from ...metrics.sync import CURVE_RATE, lag_curve, lip_gap, loudness, opening_curve
from .config import FootageConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A clip as its judge sees it: crop (T, S, S, 3) uint8, landmarks (T, 468, 3) in it, samples (n,), phones if heard."""

    frames: np.ndarray
    landmarks: np.ndarray
    samples: np.ndarray
    phones: Sequence[Phone] | None
    fps: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who judged, how sure (r of the lips, Sync-C of SyncNet), at which offset; `reason` to drop, or None."""

    judge: str
    confidence: float
    offset_frames: int
    reason: str | None


class Judge(Protocol):
    """A check of sync."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        ...

    def __call__(self, clip: Evidence) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class LipJudge:
    """Lip gap against what is heard."""

    cfg: FootageConfig
    name: str = "lips"

    def __call__(self, clip: Evidence) -> Verdict:
        """Drops clips whose best offset is beyond a frame or two, or that follow the sound at none."""
        heard = clip.phones is not None
        opening = heard_opening(clip)
        lags, r = lag_curve(lip_gap(clip.landmarks), opening, clip.fps)
        near = np.abs(lags) <= self.cfg.most_offset
        best, best_near = int(r.argmax()), float(r[near].max())
        early_or_late = float(r[best]) > max(best_near + self.cfg.least_lead, self.cfg.least_peak_r)
        reason = "off_sync" if early_or_late else "not_speaking" if best_near < self.cfg.least_peak_r else None
        offset = int(lags[best]) if early_or_late else int(lags[near][r[near].argmax()])
        return Verdict(
            judge="lips" if heard else "loudness", confidence=float(r[best] if early_or_late else best_near),
            offset_frames=offset, reason=reason)


@dataclass(frozen=True, kw_only=True)
class SyncNetJudge:
    """Sync-C and the offset of tm_core.metrics.syncnet."""

    cfg: FootageConfig
    net: Any
    confidence: Any  # sync_confidence(net, frames, landmarks, samples, fps) -> SyncNetScore
    name: str = "syncnet"

    def __call__(self, clip: Evidence) -> Verdict:
        """Too little confidence, or an offset beyond most_offset, drops a clip."""
        score = self.confidence(self.net, clip.frames, clip.landmarks, clip.samples, clip.fps)
        sure, offset = float(score.sync_c), int(score.offset_frames)
        reason = "not_speaking" if sure < self.cfg.least_sync_c else "off_sync" if abs(offset) > self.cfg.most_offset else None
        return Verdict(judge="syncnet", confidence=sure, offset_frames=offset, reason=reason)


def heard_opening(clip: Evidence) -> np.ndarray:
    """(T,) how far the sound says that the lips are open: by phones, or by loudness where none were heard."""
    count = len(clip.landmarks)
    if clip.phones is not None:
        return opening_curve(clip.phones, clip.samples, count, clip.fps)
    level = loudness(clip.samples, int(count / clip.fps * CURVE_RATE) + CURVE_RATE)
    at = (np.arange(count) + 0.5) / clip.fps * CURVE_RATE
    return np.asarray(np.interp(at, np.arange(len(level)) + 0.5, np.clip(level, 0, 1)))


def make_judge(cfg: FootageConfig) -> Judge | None:
    """The judge that is asked for; InputError for a SyncNet without weights."""
    if cfg.sync == "off":
        return None
    if cfg.sync == "lips":
        return LipJudge(cfg=cfg)
    try:
        return _syncnet(cfg)
    except (ImportError, AttributeError, OSError, InputError) as error:
        if cfg.sync == "syncnet":
            raise InputError("sync", "syncnet", f"cannot be loaded ({error})", "use --set sync=lips") from error
        log.info("sync is judged by lips and phones: no SyncNet (%s)", error)
        return LipJudge(cfg=cfg)


def _syncnet(cfg: FootageConfig) -> SyncNetJudge:
    module = import_module("...metrics.syncnet", __package__)
    return SyncNetJudge(cfg=cfg, net=module.load_syncnet(), confidence=module.sync_confidence)
