"""Claps in what a peer receives: when the picture turned white and when the tone began, in seconds of one clock.

Shapes: n samples, H x W the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks._live.callers import CLOCKS, Caller, Received
from benchmarks._live.watched_server import CLAP_EVERY, TONE_HZ, TONE_LEVEL

FPS, SOUND_RATE = 25.0, 48000
WHITE = 200.0  # mean luminance of 255
LEAST_TONE, PURE, WINDOW, LASTS = 0.25, 0.6, 96, 480  # of the tone's level; of a window's power at it; samples; in a row
TOGETHER_S = 0.6  # a tone belongs to the white that is nearer than this


@dataclass(frozen=True, kw_only=True)
class Clap:
    """Sound minus picture in seconds, by the sender's reports (None before there were any) and by arrival; when the picture came."""

    by_reports_s: float | None
    by_arrival_s: float
    arrived: float


def tone_begins(samples: np.ndarray, rate: int = SOUND_RATE, hz: float = TONE_HZ) -> int | None:
    """The first sample (n,) of the tone; None without one."""
    if len(samples) < WINDOW + LASTS or np.abs(samples).max() < LEAST_TONE * TONE_LEVEL:
        return None
    ones = np.ones(WINDOW) / WINDOW
    phase = np.exp(-2j * np.pi * hz * np.arange(len(samples)) / rate)
    level = 2 * np.abs(np.convolve(samples * phase, ones, "valid"))
    power = np.convolve(samples.astype(np.float64) ** 2, ones, "valid")
    counted = np.cumsum(np.r_[0, (level > LEAST_TONE * TONE_LEVEL) & (level**2 / 2 > PURE * power)])
    there = np.flatnonzero(counted[LASTS:] - counted[:-LASTS] == LASTS)
    return int(there[0]) + round(WINDOW * (1 - LEAST_TONE)) if len(there) else None  # a quarter of the window holds a quarter of the tone


class ClapWatch:
    """Pairs of white and tone, as a caller receives them; keeps a second of sound, so that an hour needs no memory."""

    def __init__(self) -> None:
        self.caller = Caller(on_sound=self._heard, on_picture=self._seen, colour=False)
        self.claps: list[Clap] = []
        self.pictures = 0
        self.last_arrival = 0.0
        self.gaps: list[tuple[float, float]] = []  # a picture came so long after the one before: when, how long
        self._white_before = False
        self._white: Received | None = None
        self._tone: tuple[float, float] | None = None  # stamp, arrival
        self._recent: list[Received] = []
        self._quiet_until = 0.0

    def _seen(self, picture: Received) -> None:
        self.pictures += 1
        if self.last_arrival:
            self.gaps.append((picture.arrived, picture.arrived - self.last_arrival))
            self.gaps = self.gaps[-5000:]
        self.last_arrival = picture.arrived
        white = float(picture.data.mean()) > WHITE
        if white and not self._white_before:
            self._white = picture
            self._pair()
        self._white_before = white

    def _heard(self, sound: Received) -> None:
        self._recent = [*self._recent[-3:], sound]
        if sound.arrived < self._quiet_until:
            return
        begin = tone_begins(np.concatenate([r.data for r in self._recent]))
        if begin is not None:
            at = begin - sum(len(r.data) for r in self._recent[:-1])  # in the newest piece; before it where negative
            self._tone = (sound.stamp + at, sound.arrived + at / SOUND_RATE)
            self._quiet_until = sound.arrived + 0.5 * CLAP_EVERY / FPS
            self._pair()

    def _pair(self) -> None:
        if self._white is None or self._tone is None:
            return
        (stamp, arrival), white = self._tone, self._white
        if abs(arrival - white.arrived) > TOGETHER_S:
            return
        self._white = self._tone = None
        heard = self.caller.arrivals["audio"].sender_s(round(stamp), CLOCKS["audio"])
        seen = self.caller.arrivals["video"].sender_s(white.stamp, CLOCKS["video"])
        self.claps.append(Clap(
            by_reports_s=None if heard is None or seen is None else heard - seen, by_arrival_s=arrival - white.arrived,
            arrived=white.arrived))
