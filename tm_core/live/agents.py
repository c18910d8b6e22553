"""Who answers: one small protocol between a person's microphone and text and what a portrait says. Paper section 5 (an audio LLM).

An agent hears and reads, and speaks through its AgentOutput. Non-goals: faces, networks of ours. Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError
from .avatar import Interruption
from .speech_queue import Floats
from .turn_detector import END_S, TurnDetector

MICROPHONE_RATE = 16000
BEFORE_S, ROOM_S, LONGEST_TURN_S = 0.3, 0.1, 30.0  # kept from before a turn was noticed, and after it; longer turns are answered in between


@dataclass(frozen=True, kw_only=True)
class AgentOutput:
    """What an agent may do; every call returns at once and may come from any task of the event loop."""

    say: Callable[[Floats, int], None]  # samples (n,) and their rate, the next of the answer
    end: Callable[[], None]  # the answer is complete
    interrupt: Callable[[], Interruption]  # stop, and how far the answer was heard
    turn_over: Callable[[float], None]  # the person ended to speak so many seconds ago
    note: Callable[[str, str], None]  # for the transcript: "user" or "avatar", text


class Agent(Protocol):
    """One conversation."""

    async def hear(self, samples: Floats) -> None:
        """The next samples (n,) of the microphone at MICROPHONE_RATE."""

    async def read(self, text: str) -> None:
        """A line that the person typed."""

    async def interrupted(self, interruption: Interruption) -> None:
        """The person has pressed the button: what was being said is over."""

    async def close(self) -> None:
        """The conversation is over."""


class ParrotAgent:
    """Says back what it hears, in the same voice; speaking while it speaks interrupts it."""

    def __init__(self, output: AgentOutput) -> None:
        self._output, self._turns = output, TurnDetector(MICROPHONE_RATE)
        self._recent: list[Floats] = []
        self._turn: list[Floats] = []

    async def hear(self, samples: Floats) -> None:
        events = self._turns.push(samples)
        if "began" in events:
            self._output.interrupt()
            self._turn = list(self._recent)
        if self._turns.speaking or "ended" in events:
            self._turn.append(samples)
            if "ended" in events:
                self._answer(END_S)
            elif _seconds(self._turn) > LONGEST_TURN_S:
                self._answer(0.0)
        else:
            self._recent.append(samples)
            while _seconds(self._recent[1:]) > BEFORE_S:
                self._recent.pop(0)

    def _answer(self, quiet_s: float) -> None:
        """Say the turn, which ended `quiet_s` ago, without most of the quiet after it."""
        turn, self._turn, self._recent = np.concatenate(self._turn), [], []
        kept = turn[: max(0, len(turn) - round(max(0.0, quiet_s - ROOM_S) * MICROPHONE_RATE))]
        if not len(kept):  # all of it was interrupted by the button
            return
        self._output.note("user", f"({len(kept) / MICROPHONE_RATE:.1f} s of speech)")
        self._output.turn_over(quiet_s)
        self._output.say(kept, MICROPHONE_RATE)
        self._output.end()
        self._output.note("avatar", "(the same)")

    async def read(self, text: str) -> None:
        self._output.note("avatar", "I only say back what I hear: speak to me.")

    async def interrupted(self, interruption: Interruption) -> None:
        self._turn = []

    async def close(self) -> None:
        pass


def _seconds(pieces: list[Floats]) -> float:
    return sum(map(len, pieces)) / MICROPHONE_RATE


AGENTS: dict[str, Callable[[AgentOutput], Agent]] = {"parrot": ParrotAgent}


def agent_named(name: str) -> Callable[[AgentOutput], Agent]:
    """InputError for a name nobody has."""
    if name not in AGENTS:
        raise InputError("agent", name, "no such agent", f"choose one of {', '.join(AGENTS)}")
    return AGENTS[name]
