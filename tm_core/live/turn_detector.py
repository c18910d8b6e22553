"""When somebody begins and ends to speak, by loudness over the room's own noise; nothing to download. Not part of the paper.

Non-goals: what is speech and what another sound. Shapes: n samples.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TurnEvent = Literal["began", "ended"]
STEP_S = 0.02
LEAST_DB, OVER_DB = -50.0, 10.0  # speech is louder than the first, and than the room by the second
BEGIN_S, END_S = 0.08, 0.5  # of loud steps, of quiet ones
ROOM_S, FIRST_S, QUIETEST = 3.0, 0.3, 0.1  # the room is what the quietest share of so long shows; before so much was heard nobody speaks


class TurnDetector:
    """Samples in, turns out; one voice."""

    def __init__(self, sample_rate: int = 16000, *, end_s: float = END_S) -> None:
        self._size, self._end = round(STEP_S * sample_rate), round(end_s / STEP_S)
        self._held = np.zeros(0, np.float32)
        self._levels: deque[float] = deque(maxlen=round(ROOM_S / STEP_S))
        self._loud = self._quiet = 0
        self.speaking = False
        self.level_db = -100.0  # of the last step

    def push(self, samples: NDArray[np.float32]) -> list[TurnEvent]:
        """What happened in these samples (n,) in -1..1."""
        self._held = np.concatenate([self._held, samples])
        found: list[TurnEvent] = []
        while len(self._held) >= self._size:
            step, self._held = self._held[: self._size], self._held[self._size :]
            self.level_db = float(10 * np.log10(np.mean(step.astype(np.float64) ** 2) + 1e-10))
            if (turn := self._step(self.level_db)) is not None:
                found.append(turn)
        return found

    def _step(self, level: float) -> TurnEvent | None:
        self._levels.append(level)
        room = sorted(self._levels)[int(QUIETEST * len(self._levels))]
        loud = len(self._levels) > FIRST_S / STEP_S and level > max(LEAST_DB, room + OVER_DB)
        self._loud, self._quiet = (self._loud + 1, 0) if loud else (0, self._quiet + 1)
        if not self.speaking and self._loud >= round(BEGIN_S / STEP_S):
            self.speaking = True
            return "began"
        if self.speaking and self._quiet >= self._end:
            self.speaking = False
            return "ended"
        return None
