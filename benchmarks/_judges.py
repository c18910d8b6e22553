"""Measures by networks: SyncNet's confidence and distance, and the Frechet distance of whole sets of clips.

A clone without SyncNet weights still runs every benchmark; those figures are then left out, and `missing` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._common import say
from benchmarks._truth import Seen
from tm_core.errors import InputError
from tm_core.metrics.frechet import FRECHET_NAME, VideoFeatures, frechet_distance
from tm_core.metrics.syncnet import SyncNetScore, load_syncnet, sync_confidence

__all__ = ["FRECHET_NAME", "clip_features", "distance", "mean_sync", "sync_of"]


@lru_cache(maxsize=1)
def _syncnet() -> Any:
    try:
        return load_syncnet()
    except InputError as error:
        say(f"no Sync-C and Sync-D: {error}")
        return None


@lru_cache(maxsize=1)
def _features() -> VideoFeatures:
    return VideoFeatures()


def sync_of(seen: Seen, samples: np.ndarray, fps: float) -> SyncNetScore | None:
    """SyncNet's score of a clip and its 16 kHz sound; None without weights."""
    net = _syncnet()
    return None if net is None else sync_confidence(net, seen.frames, seen.landmarks, samples, fps)


def mean_sync(scores: Sequence[SyncNetScore | None]) -> tuple[float, float]:
    """Mean Sync-C and Sync-D of several clips; NaN where there is none."""
    known = [s for s in scores if s is not None]
    return (fmean(s.sync_c for s in known), fmean(s.sync_d for s in known)) if known else (math.nan, math.nan)


def clip_features(seen: Seen) -> np.ndarray:
    """(N, D) features of a clip's parts."""
    return np.asarray(_features()(seen.frames, seen.landmarks))


def distance(made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> float:
    """Frechet distance between the parts of two sets of clips."""
    return float(frechet_distance(np.concatenate(list(made)), np.concatenate(list(true))))
