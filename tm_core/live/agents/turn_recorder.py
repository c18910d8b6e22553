"""What a person said from when a detector noticed it until it was over. Not part of the paper.

Non-goals: noticing (turn_detector, voice_detector). Shapes: n samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..speech_queue import Floats
from ..turn_detector import END_S, TurnEvent

BEFORE_S, ROOM_S, LONGEST_TURN_S = 0.16, 0.1, 30.0  # kept from before a turn was noticed, and after it; longer ones are handed on in parts


class SpeechDetector(Protocol):
    """Samples in, turns out; they end END_S after the last word."""

    speaking: bool

    def push(self, samples: Floats) -> list[TurnEvent]:
        """What happened in these samples (n,)."""


@dataclass(frozen=True, kw_only=True)
class HeardTurn:
    """Samples (n,) of a turn without most of the quiet after it, and how long that had lasted when it was handed on."""

    samples: Floats
    quiet_s: float


class TurnRecorder:
    """Keeps the turn under way; one voice."""

    def __init__(self, detector: SpeechDetector, rate: int) -> None:
        self._detector, self._rate = detector, rate
        self._recent: list[Floats] = []
        self._turn: list[Floats] = []

    def push(self, samples: Floats) -> tuple[bool, HeardTurn | None]:
        """Whether a turn began in these samples (n,), and the one that ended."""
        events = self._detector.push(samples)
        began = "began" in events
        if began:
            self._turn = list(self._recent)
        if not (self._detector.speaking or "ended" in events):
            self._recent.append(samples)
            while self._seconds(self._recent[1:]) > BEFORE_S:
                self._recent.pop(0)
            return began, None
        self._turn.append(samples)
        if "ended" in events:
            return began, self._take(END_S)
        return began, self._take(0.0) if self._seconds(self._turn) > LONGEST_TURN_S else None

    def forget(self) -> None:
        """What was recorded so far counts no more."""
        self._turn = []

    def _take(self, quiet_s: float) -> HeardTurn | None:
        turn, self._turn, self._recent = np.concatenate(self._turn), [], []
        kept = turn[: max(0, len(turn) - round(max(0.0, quiet_s - ROOM_S) * self._rate))]
        return HeardTurn(samples=kept, quiet_s=quiet_s) if len(kept) else None  # nothing is left of a turn that was forgotten

    def _seconds(self, pieces: list[Floats]) -> float:
        return sum(map(len, pieces)) / self._rate
