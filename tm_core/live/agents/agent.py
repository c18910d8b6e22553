"""Who answers: one small protocol between a person's microphone and text and what a portrait says. Paper section 5 (an audio LLM).

An agent hears and reads, and speaks through its AgentOutput. Non-goals: faces, networks of ours. Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..avatar import Interruption
from ..speech_queue import Floats

MICROPHONE_RATE = 16000


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
