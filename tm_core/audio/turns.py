"""Who speaks when: a written timeline or a diarisation, as spans of seconds and as flags of latents.

A timeline is `0.0-2.5 A, 2.5-4 B`: entries end at a comma, a semicolon or a line; several names are joined by `+`; an open
end (`4- B`) lasts as long as the sound; times are seconds (an s may follow) or m:ss; gaps and overlaps are allowed. Also read:
`[0-2.5] A`, `0-2.5: A`, `A: 0-2.5, 3-4`, `-->` for the dash. Refused rather than guessed: a comma in a number, two entries
without a comma between them. A diarisation is RTTM (NIST, Rich Transcription 2009): its SPEAKER lines. Non-goals: finding out who
speaks in one sound (diarise it before), speech of separate tracks (silence.py: each speaks when its own sound does).

Shapes: F latents; a span is (start, end) in seconds, end exclusive, inf where it is open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..inputs import decoded
from ..timeline import Timeline

Span = tuple[float, float]

EXAMPLE = "write for example 0-2.5 A, 2.5-4 B"
_TIME = r"(?:\d+:){0,2}\d+(?:\.\d*)?|\.\d+"
_WORD = r"(?:s|secs?|seconds?)"
_UNIT = rf"(?:{_WORD}\b\.?|\s+{_WORD}(?=\s+[^\s+]))?"  # "0-2 s" is somebody whose name is s
_DASH = r"\s*(?:--?>|[-\u2010-\u2015\u2212~\u2192]|\bto\b)\s*"
_SPAN = re.compile(rf"[\[(]?\s*({_TIME}){_UNIT}{_DASH}(?:({_TIME}){_UNIT}(?=[\s:\])]|$))?\s*[\])]?\s*:?\s*(.*)")
_NAMED = re.compile(rf"([^\d\s\[(][^:]*?)\s*:\s*(?=[\[(]?\s*(?:{_TIME}){_UNIT}{_DASH})(.*)")
_NEXT = re.compile(rf"[\s\[(](?:{_TIME}){_UNIT}{_DASH}(?:{_TIME}|$|\s)")
_HALF = re.compile(r"\d+")
_SUBTITLE = re.compile(r"(?:\d+:)+\d+[.,]\d+\s*-->\s*[\d:.,]+")
NO_COMMA = "write times with a point, as 0.5-2 A, and a comma only between entries"
RTTM_TYPES = frozenset({  # that say nothing of who speaks when
    "NOSCORE", "NO_RT_METADATA", "SPKR-INFO", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "SU", "IP", "CB", "A/P"})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One name speaks from `start_s` to before `end_s`."""

    speaker: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class SpeakingTurns:
    """The turns of a conversation."""

    turns: tuple[Turn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Speakers in the order in which they begin."""
        return tuple(dict.fromkeys(turn.speaker for turn in sorted(self.turns, key=lambda t: t.start_s)))

    @property
    def text(self) -> str:
        """The same as a written timeline."""
        return ", ".join(map(_written, self.turns))

    def spans(self, name: str) -> tuple[Span, ...]:
        """When a speaker speaks, in order, what touches joined; InputError for one who has no turn."""
        self.match([name], others=True)
        return merged((t.start_s, t.end_s) for t in self.turns if t.speaker == name)

    def match(self, names: Sequence[str], *, field: str = "names", others: bool = False) -> None:
        """InputError where these names are not the schedule's; `others`: it may have more."""
        known = ", ".join(self.names)
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise InputError(field, ", ".join(twice), "stands there twice", "give every speaker a name of its own")
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InputError(field, ", ".join(unknown), f"has no turn; the timeline names {known}", "write it as the timeline does")
        missing = [name for name in self.names if name not in names]
        if missing and not others:
            rule = f"{len(names)} of {len(self.names)} speakers of the timeline; nobody is {', '.join(missing)}"
            raise InputError(field, ", ".join(names), rule, f"add {', '.join(missing)}, or take these turns out of the timeline")

    def inside(self, name: str, duration_s: float, field: str = "timeline") -> tuple[Span, ...]:
        """The spans of a speaker in a sound of this length; InputError for a turn that begins after it."""
        spans = self.spans(name)
        for start, end in spans:
            if start >= duration_s:
                turn = SpeakingTurns(turns=(Turn(speaker=name, start_s=start, end_s=end),)).text
                raise InputError(field, turn, f"begins when the sound is over ({duration_s:.2f} s)", "correct its times, or take it out")
        return spans


def _written(turn: Turn) -> str:
    """A turn as an entry of a timeline; in brackets where an open end stands before a name that is a number."""
    if math.isinf(turn.end_s):
        return f"[{turn.start_s:.10g}-] {turn.speaker}" if turn.speaker[0] in "0123456789." else f"{turn.start_s:.10g}- {turn.speaker}"
    return f"{turn.start_s:.10g}-{turn.end_s:.10g} {turn.speaker}"


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, those that touch or overlap joined."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return tuple(out)


def without(spans: Iterable[Span], taken: Iterable[Span]) -> tuple[Span, ...]:
    """What is left of spans where `taken` ones lie over them."""
    left = list(merged(spans))
    for low, high in merged(taken):
        left = [part for start, end in left for part in ((start, min(end, low)), (max(start, high), end)) if part[0] < part[1]]
    return tuple(left)


# -- reading ------------------------------------------------------------------------------------------------------------


def read_schedule(path: Path, recording: str | None = None) -> SpeakingTurns:
    """The schedule in a text file, timeline or RTTM; InputError for what is neither."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("timeline", path, f"cannot be read ({error})", "give a text file with a timeline or RTTM") from error
    return parse_turns(decoded("timeline", path, data), recording)


def parse_turns(text: str, recording: str | None = None) -> SpeakingTurns:
    """A timeline or the text of an RTTM file, whichever it is."""
    text = _plain(text)
    first = [line.split()[0] for line in text.split("\n") if line.split()]
    return parse_rttm(text, recording) if {"SPEAKER", *RTTM_TYPES} & set(first) else parse_timeline(text)


def parse_timeline(text: str) -> SpeakingTurns:
    """A written timeline; InputError that names the part which cannot be read."""
    lines = re.split(r"[;\n]", _plain(text))
    subtitle = next(filter(_SUBTITLE.fullmatch, map(str.strip, lines)), None)
    if subtitle is not None:
        raise InputError("timeline", repr(subtitle), "is of subtitles: they say what is spoken, not by whom", EXAMPLE)
    turns = [turn for line in lines for turn in _line(line)]
    if not turns:
        raise InputError("timeline", "nothing", "names no turn", EXAMPLE)
    return SpeakingTurns(turns=tuple(turns))


def _plain(text: str) -> str:
    """Lines ended by newlines, without a byte-order mark."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _line(line: str) -> list[Turn]:
    """The turns of a line; a name before a colon is that of all its entries without one."""
    parts = [part.strip() for part in line.split(",")]
    _check_commas(parts)
    turns: list[Turn] = []
    leading = ""
    for part in filter(None, parts):
        named = _NAMED.fullmatch(part)
        leading, entry = (named[1], named[2]) if named else (leading, part)
        turns += _entry(part, entry, leading)
    return turns


def _check_commas(parts: Sequence[str]) -> None:
    """InputError for a comma that stands in a number: 0,5-2 A, or 1-2,5 A."""
    for one, two in pairwise(parts):
        whole = _HALF.fullmatch(re.split(r"[-\u2010-\u2015\u2212~\u2192:>\[(]", one)[-1].strip())
        if whole and re.match(r"\d", two) and (_HALF.fullmatch(one.strip("[( ")) or not _SPAN.fullmatch(two)):
            raise InputError("timeline", repr(f"{one},{two}"), "has a comma in a number", NO_COMMA)


def _entry(part: str, entry: str, leading: str) -> list[Turn]:
    """The turns of an entry; `part` is what was written."""
    found = _SPAN.fullmatch(entry)
    if found is None:
        raise InputError("timeline", repr(part), "is not START-END NAME, with an entry for every turn", EXAMPLE)
    start, end = _seconds(found[1]), math.inf if found[2] is None else _seconds(found[2])
    if end <= start:
        raise InputError("timeline", repr(part), "ends before it begins", "give an end after the start")
    if _NEXT.search(f" {found[3]}"):
        raise InputError("timeline", repr(part), "holds two entries", "write a comma between them")
    names = [name.strip() for name in (found[3] or leading).split("+")]
    if not all(names):
        raise InputError("timeline", repr(part), "lacks a name", f"{EXAMPLE}; two at once are 0-2 A + B")
    return [Turn(speaker=name, start_s=start, end_s=end) for name in names]


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def parse_rttm(text: str, recording: str | None = None) -> SpeakingTurns:
    """The SPEAKER lines of RTTM; InputError for a line that is none, and for several recordings where none is chosen."""
    found = [(record, turn) for number, line in enumerate(text.splitlines(), 1) for record, turn in _rttm_line(number, line)]
    records = list(dict.fromkeys(record for record, _ in found))
    if recording is None and len(records) > 1:
        raise InputError("rttm", ", ".join(records), "turns of several recordings", "keep the lines of one of them")
    turns = tuple(turn for record, turn in found if recording in (None, record))
    if not turns:
        which = "" if recording is None else f" of {recording}"
        raise InputError("rttm", f"{len(text.splitlines())} lines", f"hold no SPEAKER line{which}", "give a diarisation of this sound")
    return SpeakingTurns(turns=turns)


def _rttm_line(number: int, line: str) -> list[tuple[str, Turn]]:
    """Recording and turn of a line; nothing for an empty one, a comment, another type, or a turn of no length."""
    fields = line.split()
    if not fields or fields[0].startswith((";", "#")) or fields[0] in RTTM_TYPES:
        return []
    try:
        kind, record, start, length, name = fields[0], fields[1], float(fields[3]), float(fields[4]), fields[7]
        good = kind == "SPEAKER" and 0 <= start < math.inf and 0 <= length < math.inf and name != "<NA>" and not set(name) & set(",;+")
    except (IndexError, ValueError):
        good = False
    if not good:
        remedy = "correct it: SPEAKER recording 1 start duration <NA> <NA> name <NA> <NA>"
        raise InputError("rttm", f"line {number}, {line.strip()!r}", "is no SPEAKER line", remedy)
    return [(record, Turn(speaker=name, start_s=start, end_s=start + length))] if length else []


# -- latents ------------------------------------------------------------------------------------------------------------


def flags_of_spans(spans: Iterable[Span], num_latents: int, timeline: Timeline) -> NDArray[np.bool_]:
    """Flags (F,), True for latents whose middle lies in a span: turns that meet never share one.

    A turn too short to hold a middle has the latent it stands in.
    """
    edges = np.array([[float(t / timeline.fps) for t in (f.start, f.stop)] for f in map(timeline.frames_of_latent, range(num_latents))])
    edges = edges.reshape(num_latents, 2)
    flags, middles = np.zeros(num_latents, bool), edges.mean(1)
    for start, end in spans:
        inside = (middles >= start) & (middles < end)
        centre = (start + end) / 2
        flags |= inside if inside.any() else (edges[:, 0] <= centre) & (centre < edges[:, 1])
    return flags


def spans_of_flags(flags: NDArray[np.bool_], timeline: Timeline) -> tuple[Span, ...]:
    """The seconds that flagged latents (F,) show."""
    shown = [timeline.frames_of_latent(int(i)) for i in np.flatnonzero(flags)]
    return merged((float(f.start / timeline.fps), float(f.stop / timeline.fps)) for f in shown)
