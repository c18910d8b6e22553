"""What was said in a conversation as far as it was heard, for a chat server. Not part of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field

from .spoken_answers import HeardPart

MOST = 60  # messages that are told again
CHARACTERS_A_S = 14.0  # of speech, for a sentence whose length is not known yet


@dataclass(kw_only=True, eq=False)
class SaidSentence:
    """A sentence of an answer; `complete`: all of its sound has come."""

    text: str
    complete: bool = False


@dataclass(kw_only=True, eq=False)
class ChatMessage:
    """One message; an assistant's is kept by sentences."""

    role: str
    sentences: list[SaidSentence] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join(s.text for s in self.sentences)


class ChatHistory:
    """The messages so far, oldest first."""

    def __init__(self, instructions: str) -> None:
        self._instructions = instructions
        self._messages: list[ChatMessage] = []

    def add(self, role: str, text: str = "") -> ChatMessage:
        """A message of the user or the assistant, which may still grow."""
        message = ChatMessage(role=role, sentences=[SaidSentence(text=text)] if text else [])
        self._messages = [*self._messages[-MOST + 1 :], message]
        return message

    def cut(self, message: ChatMessage, parts: list[HeardPart]) -> None:
        """An interrupted message ends where it stopped to be heard, at a whole word; its parts are its sentences."""
        parts_by_sentence = {part.part: part for part in parts}
        kept = []
        for sentence in message.sentences:
            part = parts_by_sentence.get(sentence)
            if part is None and sentence.complete:  # it made no sound
                continue
            if part is None:
                break
            if not (part.whole and sentence.complete):
                sentence.text = _heard(sentence, part)
                kept += [sentence] if sentence.text else []
                break
            kept.append(sentence)
        message.sentences = kept

    def messages(self) -> list[dict[str, str]]:
        """As a chat server takes them: nobody speaks twice in a row, nothing that was not heard."""
        out = [{"role": "system", "content": self._instructions}]
        for message in self._messages:
            if not message.text:
                continue
            if out[-1]["role"] == message.role:
                out[-1]["content"] += f"\n{message.text}"
            else:
                out.append({"role": message.role, "content": message.text})
        return out


def _heard(sentence: SaidSentence, part: HeardPart) -> str:
    count = len(sentence.text) * part.heard_s / part.said_s if sentence.complete else part.heard_s * CHARACTERS_A_S
    if count >= len(sentence.text):
        return sentence.text
    text = sentence.text[: round(count) + 1]
    return text[: text.rfind(" ")].rstrip() if " " in text else ""
