"""How a mouth looks in the frames of a live session: where it is, how much it changes, when it moves and when it is shut.

Shapes: T frames, H x W the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tm_core import talk
from tm_core.live.avatar import LiveAvatar
from tm_core.metrics.lip_sync import lip_gap

Box = tuple[int, int, int, int]  # left, top, right, bottom
OUTER = (61, 291, 0, 17)  # corners, upper and lower lip
OVER_IDLE, LEAST_LEVELS = 2.0, 0.5  # a mouth moves when it changes so many times as much as while idle, and by so many grey levels
LISTENING, SPEAKING = 20, 25  # frames: first ones, in which it listens; before a cut, in which it spoke
STAYS = 5  # frames
SHUT = 0.25  # of the way from rest to where it is while it speaks


def mouth_box(avatar: LiveAvatar) -> Box:
    """Of the frames of a session, with some room for an open mouth."""
    x, y = avatar._view.landmarks[list(OUTER), :2].round().astype(int).T
    high = max(4, int(np.ptp(y)))
    return int(x.min()), int(y.min()) - high // 4, int(x.max()) + 1, int(y.max()) + high // 2


def mouths_of(frames: Sequence[np.ndarray], box: Box) -> np.ndarray:
    """(T, h, w) grey levels of the mouth."""
    left, top, right, bottom = box
    return np.stack([f[max(0, top) : bottom, max(0, left) : right].astype(np.float32).mean(-1) for f in frames])


def first_move(mouths: np.ndarray, idle: int) -> int | None:
    """The first of (T, h, w) mouths after `idle` idle ones that differs from the last idle one by more than idling does; None: none."""
    change = np.abs(mouths - mouths[idle - 1]).mean((1, 2))
    moving = np.flatnonzero(change[idle:] > OVER_IDLE * change[:idle].max() + LEAST_LEVELS)
    return int(moving[0]) + idle if len(moving) else None


def lip_gaps(frames: Sequence[np.ndarray]) -> np.ndarray:
    """(T,) of the face's height."""
    return lip_gap(talk.face_mesh().landmarks_batch(np.stack(frames)))


def shut_from(gaps: np.ndarray, cut: int) -> int | None:
    """The first frame from `cut` on after which the lips of (T,) gaps stay shut, as they were at the beginning; None: never."""
    rest, open_ = float(np.nanmedian(gaps[:LISTENING])), float(np.nanpercentile(gaps[max(0, cut - SPEAKING) : cut], 90))
    wide = np.flatnonzero(gaps[cut:] > rest + SHUT * max(open_ - rest, 0.0))
    last = int(wide[-1]) + 1 if len(wide) else 0
    return cut + last if cut + last <= len(gaps) - STAYS else None
