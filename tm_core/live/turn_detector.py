"""When somebody begins and ends to speak, by loudness over the room's own noise; nothing to download. Not part of the paper.

Non-goals: what is speech and what another sound. Shapes: n samples.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Turn = Literal["began", "ended"]
STEP_S = 0.02
LOUDEST_ROOM_DB, LEAST_DB, OVER_DB = -30.0, -50.0, 10.0  # the room counts as no louder; speech is louder than that, and than the room
BEGIN_S, END_S = 0.08, 0.5  # of loud steps, of quiet ones
SINKS, RISES = 0.2, 0.004  # how fast the room's level follows a step below and above it


class TurnDetector:
    """Samples in, turns out; one voice."""

    def __init__(self, sample_rate: int = 16000, *, end_s: float = END_S) -> None:
        self._size, self._end = round(STEP_S * sample_rate), round(end_s / STEP_S)
        self._held = np.zeros(0, np.float32)
        self._room, self._loud, self._quiet = LEAST_DB - OVER_DB, 0, 0
        self.speaking = False
        self.level_db = -100.0  # of the last step

    def push(self, samples: NDArray[np.float32]) -> list[Turn]:
        """What happened in these samples (n,) in -1..1."""
        self._held = np.concatenate([self._held, samples])
        found: list[Turn] = []
        while len(self._held) >= self._size:
            step, self._held = self._held[: self._size], self._held[self._size :]
            self.level_db = float(10 * np.log10(np.mean(step.astype(np.float64) ** 2) + 1e-10))
            if (turn := self._step(self.level_db)) is not None:
                found.append(turn)
        return found

    def _step(self, level: float) -> Turn | None:
        loud = level > max(LEAST_DB, self._room + OVER_DB)
        if not self.speaking:
            self._room += (SINKS if level < self._room else RISES) * (level - self._room)
            self._room = min(self._room, LOUDEST_ROOM_DB)
        self._loud, self._quiet = (self._loud + 1, 0) if loud else (0, self._quiet + 1)
        if not self.speaking and self._loud >= round(BEGIN_S / STEP_S):
            self.speaking = True
            return "began"
        if self.speaking and self._quiet >= self._end:
            self.speaking = False
            return "ended"
        return None
