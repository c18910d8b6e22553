"""Text as it is written, sentence by sentence, so that the first one is spoken while the rest is still to come. Not part of the paper.

Non-goals: languages that need a dictionary to find a sentence's end.
"""

from __future__ import annotations

import re

LONGEST = 240  # characters of a piece; a longer sentence is parted at a clause, or between words
# an end and its closing quotes before a space and whatever follows; of scripts without spaces the mark alone; a line's end
END = re.compile(r"[.!?\u2026]+[\"')\]\u201d\u2019]*(?=\s+\S)|[\u3002\uff01\uff1f]+|\n")
NO_END = re.compile(r"(?:^|[\s(\"])(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|No|approx|[A-Z])\.$")
CLAUSE = re.compile(r"[,;:\u2014\u3001\uff0c]\s*")


class SentenceSplitter:
    """Pieces of any size in, whole sentences out."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[str]:
        """The sentences that are complete now."""
        self._text += text
        found, begin = [], 0
        for match in END.finditer(self._text):
            follows = self._text[match.end() :].lstrip()[:1]
            if NO_END.search(self._text[begin : match.end()]) or (match[0] == "." and follows.islower()):
                continue
            found += _pieces(self._text[begin : match.end()])
            begin = match.end()
        self._text = self._text[begin:]
        if len(self._text) > LONGEST:
            *whole, self._text = _parted(self._text)
            found += [piece.strip() for piece in whole if _is_said(piece)]
        return found

    def flush(self) -> list[str]:
        """What is left at the end of the text."""
        text, self._text = self._text, ""
        return _pieces(text)


def _pieces(text: str) -> list[str]:
    return [piece.strip() for piece in _parted(text) if _is_said(piece)]


def _parted(text: str) -> list[str]:
    """Pieces of at most LONGEST characters, which together are the text."""
    out = []
    while len(text) > LONGEST:
        clauses = [m.end() for m in CLAUSE.finditer(text, 0, LONGEST)]
        space = text.rfind(" ", 0, LONGEST) + 1
        cut = clauses[-1] if clauses and clauses[-1] > LONGEST // 4 else space or LONGEST
        out.append(text[:cut])
        text = text[cut:]
    return [*out, text]


def _is_said(text: str) -> bool:
    return any(c.isalnum() for c in text)
