"""An agent that reads aloud what is typed, on this machine alone. Not part of the paper."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ..avatar import Interruption
from ..speech_queue import Floats
from ..turn_detector import TurnDetector
from .agent import MICROPHONE_RATE, AgentOutput
from .offline_voice import OfflineVoice
from .sentences import SentenceSplitter
from .spoken_answers import SpokenAnswers

log = logging.getLogger(__name__)

DEAF = "I do not hear: type what I shall say."


class ReaderAgent:
    """Says what is typed, line after line; the button stops it, and forgets the lines that wait."""

    def __init__(self, output: AgentOutput, voice: OfflineVoice) -> None:
        self._output, self._voice, self._answers = output, voice, SpokenAnswers(output)
        self._turns: TurnDetector | None = TurnDetector(MICROPHONE_RATE)  # None: it was said that nobody hears
        self._lines: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def hear(self, samples: Floats) -> None:
        if self._turns is not None and "began" in self._turns.push(samples):
            self._turns = None
            self._output.note("avatar", DEAF)

    async def read(self, text: str) -> None:
        self._lines.append(text)
        if self._task is None or self._task.done():
            self._output.turn_over(0.0)
            self._task = asyncio.get_running_loop().create_task(self._speak())

    async def interrupted(self, interruption: Interruption) -> None:
        self._answers.interrupted(interruption)
        await self.close()

    async def close(self) -> None:
        self._lines = []
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _speak(self) -> None:
        """One answer for all lines that wait; a sentence is made while the one before is spoken."""
        answer = self._answers.begin()
        try:
            while self._lines:
                said = 0
                for sentence in _sentences(self._lines.pop(0)):
                    samples, rate = await asyncio.to_thread(self._voice.speak, sentence)
                    answer.say(samples, rate)
                    said += len(samples)
                if not said:
                    self._output.note("avatar", "I know no sound for this: I speak English only.")
        except Exception as error:
            log.exception("the voice failed")
            self._output.note("avatar", f"(the voice failed: {type(error).__name__})")
        finally:
            answer.end()


def _sentences(text: str) -> list[str]:
    splitter = SentenceSplitter()
    return splitter.push(text) + splitter.flush()
