"""An agent that says back what it hears, with nothing to install or to connect. Not part of the paper."""

from __future__ import annotations

from ..avatar import Interruption
from ..speech_queue import Floats
from ..turn_detector import TurnDetector
from .agent import MICROPHONE_RATE, AgentOutput
from .turn_recorder import TurnRecorder


class ParrotAgent:
    """Says back what it hears, in the same voice; speaking while it speaks interrupts it."""

    def __init__(self, output: AgentOutput) -> None:
        self._output, self._recorder = output, TurnRecorder(TurnDetector(MICROPHONE_RATE), MICROPHONE_RATE)

    async def hear(self, samples: Floats) -> None:
        began, turn = self._recorder.push(samples)
        if began:
            self._output.interrupt()
        if turn is None:
            return
        self._output.note("user", f"({len(turn.samples) / MICROPHONE_RATE:.1f} s of speech)")
        self._output.turn_over(turn.quiet_s)
        self._output.say(turn.samples, MICROPHONE_RATE)
        self._output.end()
        self._output.note("avatar", "(the same)")

    async def read(self, text: str) -> None:
        self._output.note("avatar", "I only say back what I hear: speak to me.")

    async def interrupted(self, interruption: Interruption) -> None:
        self._recorder.forget()

    async def close(self) -> None:
        pass
