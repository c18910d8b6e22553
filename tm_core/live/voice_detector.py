"""When somebody begins and ends to speak, by the silero-vad network: a door or music is no turn. Not part of the paper.

The network's file is found inside the installed package and run by onnxruntime; the package itself is not imported, because that sets
torch to one thread for the whole process. Non-goals: who speaks. Shapes: n samples.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .speech_queue import Floats
from .turn_detector import END_S, TurnEvent

RATE, STEP, CONTEXT = 16000, 512, 64  # samples a second, of a step, and of the step before that the network sees again
SURE, UNSURE = 0.5, 0.35  # it is speech above the first; it is none any more below the second
BEGIN_STEPS = 3  # of speech: 96 ms


def load_silero() -> Any:
    """The network, for any number of detectors; InputError where it is not installed."""
    found = importlib.util.find_spec("silero_vad")
    path = Path(found.origin).parent / "data" / "silero_vad.onnx" if found and found.origin else None
    if path is None or not path.is_file() or importlib.util.find_spec("onnxruntime") is None:
        raise InputError(
            "agent", "pipeline", "needs silero-vad and onnxruntime, which are not installed", "run: pip install 'talking-machines[agents]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class VoiceDetector:
    """Samples at RATE in, turns out; one voice. A step takes a fraction of a millisecond."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._state, self._context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
        self._held = np.zeros(0, np.float32)
        self._voiced = self._quiet = 0
        self.speaking = False

    def push(self, samples: Floats) -> list[TurnEvent]:
        """What happened in these samples (n,) in -1..1."""
        self._held = np.concatenate([self._held, samples])
        found: list[TurnEvent] = []
        while len(self._held) >= STEP:
            step, self._held = self._held[:STEP], self._held[STEP:]
            if (turn := self._step(self._probability(step))) is not None:
                found.append(turn)
        return found

    def _probability(self, step: Floats) -> float:
        seen = np.concatenate([self._context, step]).astype(np.float32)
        said, self._state = self._network.run(None, {"input": seen[None], "state": self._state, "sr": np.array(RATE, np.int64)})
        self._context = seen[-CONTEXT:]
        return float(said[0, 0])

    def _step(self, probability: float) -> TurnEvent | None:
        self._voiced = self._voiced + 1 if probability >= SURE else 0
        self._quiet = self._quiet + 1 if probability < UNSURE else 0
        if not self.speaking and self._voiced >= BEGIN_STEPS:
            self.speaking = True
            return "began"
        if self.speaking and self._quiet * STEP >= END_S * RATE:
            self.speaking = False
            return "ended"
        return None
