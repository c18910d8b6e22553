"""What an agent says, played into a real queue of speech at the test's own pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tm_core.live.agents import AgentOutput
from tm_core.live.avatar import Interruption
from tm_core.live.speech_queue import SpeechQueue

RATE, FRAME_S = 48000, 0.04


class Player:
    """Counts as a LiveAvatar does, without a face; `lines`: the transcript, `calls`: what was asked for and when."""

    def __init__(self) -> None:
        self.queue = SpeechQueue(rate=RATE, model_rate=16000, fps=Fraction(25))
        self.heard: list[np.ndarray] = []
        self.lines: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self.said_s = self.since_s = 0.0
        self.interruptions: list[Interruption] = []
        self.turns: list[float] = []
        self.output = AgentOutput(say=self.say, end=self.end, interrupt=self.interrupt, turn_over=self.turns.append, note=self.note)

    def say(self, samples: np.ndarray, rate: int) -> None:
        self.queue.push(samples, rate)
        self.said_s += len(samples) / rate
        self.calls.append("say")

    def end(self) -> None:
        self.queue.end()
        self.calls.append("end")

    def interrupt(self) -> Interruption:
        self.queue.clear()
        self.calls.append("interrupt")
        done = Interruption(answer=None, position_s=0.0, heard_s=self.since_s)
        self.interruptions.append(done)
        self.since_s = 0.0
        return done

    def note(self, who: str, text: str) -> None:
        self.lines.append((who, text))

    def play(self, seconds: float) -> np.ndarray:
        """So much is heard now, as far as it is there."""
        out = [np.zeros(0, np.float32)]
        for _ in range(round(seconds / FRAME_S)):
            if self.queue.frames:
                sound = self.queue.take(1)
                out.append(sound.heard[: sound.length])
        heard = np.concatenate(out)
        self.heard.append(heard)
        self.since_s += len(heard) / RATE
        return heard

    def told(self, words: str) -> bool:
        """Whether a line of the portrait's has these words."""
        return any(who == "avatar" and words in text for who, text in self.lines)


async def until(true: Callable[[], Any], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "still not so"
        await asyncio.sleep(0.01)
