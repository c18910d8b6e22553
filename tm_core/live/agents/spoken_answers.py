"""What an agent says, answer by answer, and how much of each part was heard. Not part of the paper.

Whatever still arrives for an answer that was cut goes nowhere, so an agent cannot speak after an interruption. Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ..avatar import Interruption
from ..speech_queue import Floats
from .agent import AgentOutput


@dataclass(frozen=True, kw_only=True)
class HeardPart:
    """A part of what was said before an interruption: how long it is so far, and how much of it was handed out."""

    part: Any  # hashable
    said_s: float
    heard_s: float

    @property
    def whole(self) -> bool:
        """Whether all of it was heard, but for what a resampler may keep."""
        return self.heard_s > self.said_s - 0.002


class SpokenAnswer:
    """One answer; nothing of it goes out once it has ended or was cut."""

    def __init__(self, answers: SpokenAnswers) -> None:
        self._answers = answers
        self.open, self._begun = True, False

    def say(self, samples: Floats, rate: int, part: Hashable = None) -> None:
        """The next samples (n,) of this answer; `part` names what they belong to."""
        if self.open and len(samples):
            try:
                self._answers.output.say(samples, rate)
            except InputError as error:  # more than may wait
                self.end()
                self._answers.output.note("avatar", f"({error})")
                return
            self._begun = True
            self._answers.count(part, len(samples) / rate)

    def end(self) -> None:
        """The answer is complete; again is no error."""
        if self.open:
            self.open = False
            if self._begun:
                self._answers.output.end()


class SpokenAnswers:
    """The answers of one conversation, one after the other."""

    def __init__(self, output: AgentOutput) -> None:
        self.output = output
        self._current: SpokenAnswer | None = None
        self._parts: dict[Hashable, float] = {}  # seconds said since the last interruption, in the order of their beginnings

    def begin(self) -> SpokenAnswer:
        """A new answer, after the one before, which is complete."""
        if self._current is not None:
            self._current.end()
        self._current = SpokenAnswer(self)
        return self._current

    def count(self, part: Hashable, seconds: float) -> None:
        """So much more was said of a part."""
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    def interrupt(self) -> list[HeardPart]:
        """Stop at once; what had been said since the interruption before, and how much of it was heard."""
        return self.interrupted(self.output.interrupt())

    def interrupted(self, interruption: Interruption) -> list[HeardPart]:
        """The same where somebody else has stopped it."""
        if self._current is not None:
            self._current.open, self._current = False, None
        parts, self._parts, begin, found = self._parts, {}, 0.0, []
        for part, said in parts.items():
            found.append(HeardPart(part=part, said_s=said, heard_s=min(max(interruption.heard_s - begin, 0.0), said)))
            begin += said
        return found
