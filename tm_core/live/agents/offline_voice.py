"""English speech from text on this machine, by hibari-tts: its model of 7.9 MB is inside the package. Not part of the paper.

Non-goals: other languages and voices (the package downloads those).
"""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

import numpy as np

from ...errors import InputError
from ..speech_queue import Floats


class OfflineVoice:
    """One voice, loaded when it first speaks; several threads take turns."""

    def __init__(self) -> None:
        """InputError where the package is not installed."""
        if importlib.util.find_spec("hibari") is None:
            raise InputError("agent", "reader", "needs hibari-tts, which is not installed", "run: pip install 'talking-machines[agents]'")
        self._lock = threading.Lock()
        self._speaker: Any = None

    def speak(self, text: str) -> tuple[Floats, int]:
        """Samples (n,) of a sentence and their rate; none where the voice knows no sound for it."""
        with self._lock:
            if self._speaker is None:
                from hibari import Hibari

                self._speaker = Hibari()
            samples = self._speaker(text, seed=0)
        return np.clip(samples, -1.0, 1.0).astype(np.float32), int(self._speaker.sample_rate)
