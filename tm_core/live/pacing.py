"""When the next frame is due: pure arithmetic, so that it is tested without sleeping. Not part of the paper."""

from __future__ import annotations

from fractions import Fraction

LATEST_S = 0.5  # so much behind, the clock is set anew: what was missed is not caught up in a rush


class Pacer:
    """A clock of equal steps; whoever sleeps for `wait_s` before each of them keeps the rate on average."""

    def __init__(self, fps: Fraction) -> None:
        self._step = float(1 / fps)
        self._began: float | None = None
        self._count = 0

    def wait_s(self, now: float, lead_s: float = 0.0) -> float:
        """Seconds until the next step is due at time `now`, 0 where it is late; counts the step. `lead_s`: so much before its time."""
        if self._began is None:
            self._began = now
        due = self._began + self._count * self._step
        if now - due > LATEST_S:
            self._began, self._count, due = now, 0, now
        self._count += 1
        return max(0.0, due - lead_s - now)
