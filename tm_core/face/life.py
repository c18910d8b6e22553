"""What a face does besides speaking, which the bundled models' latents carry too little of: blinks, glances and a head that sways.

Rules, not learned, and functions of the frame's number alone: the same seed gives the same life in whatever pieces a stream is
made. Nothing is drawn here (vae.rendering moves the picture's pixels). Non-goals: winks, expressions. No section of the paper.

Shapes: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

CLOSURE_S = 0.04  # between these degrees of closure: fast down, slower up
CLOSURES = (0.45, 0.95, 1.0, 0.75, 0.4, 0.12)
EVERY_S, EARLIEST_S, STRAY_S = 3.5, 0.8, 1.5  # a blink for each stretch of 3.5 s, up to 1.5 s late: 2 to 5 s lie between two
GLANCE_S, STAYS, FAR = 1.7, 0.45, (0.055, 0.025)  # how often the eyes may turn, how often they do not, how far (eye widths)
RATES_HZ = (0.09, 0.17, 0.28, 0.41)  # the sway is a sum of these, slower ones wider
SWAY = (0.006, 0.005, 0.004, 0.002, 0.002)  # spread of yaw, pitch and roll (radians * depth) and of shifts x, y (face widths)
LISTENING = 1.0  # of the sway while nothing is said; latents of speech move the head besides
SETTLE_S = 1.0  # a stream begins with the picture as it is


@dataclass(frozen=True, kw_only=True)
class FaceLife:
    """The life of one face in a stream; `eyes` False where something covers them: they then neither close nor turn."""

    fps: Fraction
    seed: int
    eyes: bool = True

    def closure(self, number: int) -> float:
        """How far the lids are closed in a frame, 0..1."""
        now = float(number / self.fps)
        if not self.eyes or now < EARLIEST_S:
            return 0.0
        stretch = int((now - EARLIEST_S) / EVERY_S)
        begun = EARLIEST_S + EVERY_S * stretch + self._random(0, stretch).uniform(0, STRAY_S)
        steps = (now - begun) / CLOSURE_S
        return float(np.interp(steps, range(len(CLOSURES) + 1), [*CLOSURES, 0.0], right=0.0)) if steps >= 0 else 0.0

    def glance(self, number: int) -> tuple[float, float]:
        """How far the eyes are turned in a frame, right and down, in eye widths; they jump, as eyes do."""
        stretch, at = divmod(float(number / self.fps), GLANCE_S)
        rng = self._random(1, int(stretch))
        if at < rng.uniform(0, 0.6) * GLANCE_S:
            return (0.0, 0.0) if stretch < 1 else self._target(int(stretch) - 1)
        return self._target(int(stretch))

    def _target(self, stretch: int) -> tuple[float, float]:
        rng = self._random(2, stretch)
        if not self.eyes or rng.uniform() < STAYS:
            return 0.0, 0.0
        x, y = np.clip(rng.normal(0, 1, 2), -1.6, 1.6) * FAR
        return float(x), float(y)

    def sway(self, numbers: NDArray[np.int64], speaking: Doubles) -> Doubles:
        """Yaw, pitch, roll, x and y (T, 5) of frames (T,) in which somebody speaks by `speaking` (T,), 0..1; zero at the beginning."""
        now = numbers.astype(np.float64)[:, None] / float(self.fps)
        rng = self._random(3, 0)
        phase = rng.uniform(0, 2 * np.pi, (len(RATES_HZ), len(SWAY)))
        rates = np.array(RATES_HZ)[:, None] * rng.uniform(0.85, 1.15, phase.shape)
        wide = 1 / np.sqrt(np.arange(1, len(RATES_HZ) + 1))
        waves = np.sin(2 * np.pi * rates[None] * now[:, None] + phase[None]) * (wide / np.sqrt((wide**2).sum() / 2))[None, :, None]
        much = (LISTENING + (1 - LISTENING) * speaking)[:, None] * np.clip(now / SETTLE_S, 0, 1)
        return np.asarray(waves.sum(1) * np.array(SWAY) * much)

    def _random(self, what: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what, index])
