"""Written timelines, RTTM, names that match or not, and flags of latents."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tm_core.audio.turns import (
    SpeakingTurns,
    flags_of_spans,
    merged,
    parse_rttm,
    parse_timeline,
    parse_turns,
    read_schedule,
    spans_of_flags,
    without,
)
from tm_core.errors import InputError
from tm_core.timeline import Timeline

TIMELINE = Timeline(fps=Fraction(25))
RTTM = """;; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> unknown ann <NA> <NA>
SPEAKER talk 1 0.00 2.50 <NA> <NA> ann <NA> <NA>
SPEAKER talk 1 2.50 1.50 <NA> <NA> bob 0.98
SPEAKER talk 1 9.00 0.00 <NA> <NA> bob <NA> <NA>
"""


def turns(schedule: SpeakingTurns) -> list[tuple[float, float, str]]:
    return [(t.start_s, t.end_s, t.speaker) for t in schedule.turns]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0-2.5 A, 2.5-4 B", [(0.0, 2.5, "A"), (2.5, 4.0, "B")]),
        ("4- B", [(4.0, math.inf, "B")]),
        ("4-B", [(4.0, math.inf, "B")]),
        ("4- 2nd voice", [(4.0, math.inf, "2nd voice")]),
        ("0-1 A + Mary Ann;1-2 A\n\n3 - 4. B,", [(0, 1, "A"), (0, 1, "Mary Ann"), (1, 2, "A"), (3, 4, "B")]),
        ("1:02.5\u20131:00:00 A", [(62.5, 3600.0, "A")]),
        (".5-1 A, 0.8-2 B", [(0.5, 1.0, "A"), (0.8, 2.0, "B")]),
        ("0-2.5: A, 3-: B", [(0.0, 2.5, "A"), (3.0, math.inf, "B")]),
        ("A: 0-2.5, 3-4; Mary Ann: 5-6", [(0.0, 2.5, "A"), (3.0, 4.0, "A"), (5.0, 6.0, "Mary Ann")]),
        ("0\u20132.5s A, 3s - 4 sec B", [(0.0, 2.5, "A"), (3.0, 4.0, "B")]),
        ("[0-2] A, (2-3) B, [3-4]: C", [(0.0, 2.0, "A"), (2.0, 3.0, "B"), (3.0, 4.0, "C")]),
        ("00:00:01.5-00:00:02 A", [(1.5, 2.0, "A")]),
        ("00:00:01.500 --> 00:00:02.000 A\n2 to 3 B", [(1.5, 2.0, "A"), (2.0, 3.0, "B")]),
        ("\ufeff0-1 A\r\n1-2 B\r2-3 C\r\n", [(0.0, 1.0, "A"), (1.0, 2.0, "B"), (2.0, 3.0, "C")]),
        ("0-1 s, 1-2 S, 2-3 Agent 7,3-4 R2-D2", [(0.0, 1.0, "s"), (1.0, 2.0, "S"), (2.0, 3.0, "Agent 7"), (3.0, 4.0, "R2-D2")]),
    ],
    ids=["the issue's", "open", "open without a space", "a name that begins with a digit", "names, lines, gaps", "minutes", "overlap",
         "colons", "names first", "seconds", "brackets", "hours", "arrows and words", "line ends", "names that look like units"])
def test_timelines(text: str, expected: list[tuple[float, float, str]]) -> None:
    schedule = parse_timeline(text)
    assert turns(schedule) == expected
    assert turns(parse_turns(schedule.text)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "nothing"), (" ,\n", "nothing"), ("0-1 A, 3-2 B", "'3-2 B'"), ("0-1 A, 2-2 B", "'2-2 B'"), ("0-1 A, 2-3", "'2-3'"),
        ("0-1 A, B 2-3", "'B 2-3'"), ("0-1 A, 1-2 B +", "'1-2 B +'"), ("-1-2 A", "'-1-2 A'"), ("1-2-3 A+", "'1-2-3 A+'"),
    ],
    ids=["empty", "only separators", "backwards", "no length", "no name", "name first", "half a pair", "negative", "odd"])
def test_the_part_that_cannot_be_read_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_timeline(text)
    assert caught.value.value == part
    assert caught.value.remedy.startswith(("write for example 0-2.5 A", "give an end after the start", "write a comma between"))


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        ("0-2 A 3-4 B", "'0-2 A 3-4 B'", "holds two entries; write a comma between them"),
        ("0-2 A [3-4] B", "'0-2 A [3-4] B'", "holds two entries"), ("0-2 A 3- ", "'0-2 A 3-'", "holds two entries"),
        ("0,5-2 A", "'0,5-2 A'", "has a comma in a number; write times with a point"),
        ("0-1 A, 1-2,5 B", "'1-2,5 B'", "has a comma in a number"), ("A: 0-2,5", "'A: 0-2,5'", "has a comma in a number"),
        ("1\n00:00:01,000 --> 00:00:02,500\nA: hello\n", "'00:00:01,000 --> 00:00:02,500'", "is of subtitles"),
    ],
    ids=["no comma", "no comma before a bracket", "no comma before an open one", "decimal comma", "in the end", "after a name", "SRT"])
def test_what_may_mean_two_things_is_refused(text: str, part: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_timeline(text)
    assert caught.value.value == part and "\n" not in str(caught.value)


def written(rng: random.Random, turn: tuple[float, float, str]) -> str:
    """A turn in one of the ways that people write it."""
    start, end, name = turn
    dash = rng.choice(["-", " - ", "\u2013", " --> ", " to "])
    times = f"{start:.2f}{dash}{end:.2f}" if rng.random() < 0.5 else f"0:{start:05.2f}{dash}0:00:{end:05.2f}"
    return rng.choice(["{} {}", "{}: {}", "[{}] {}", "({}) : {}", " {}   {} ", "{}s {}"]).format(times, name)


@pytest.mark.parametrize("seed", range(40))
def test_a_timeline_reads_alike_however_it_is_written(seed: int) -> None:
    rng = random.Random(seed)
    names = rng.sample(["A", "Mary Ann", "R2-D2", "s", "Agent 7", "Zo\u00eb", "to", "1", "speaker_00"], 4)
    expected = []
    for _ in range(rng.randint(1, 9)):
        start = round(rng.uniform(0, 50), 2)
        expected.append((start, round(start + rng.uniform(0.05, 9), 2), rng.choice(names)))
    text = "".join(written(rng, turn) + rng.choice([",", ", ", ";", "\n", "\r\n"]) for turn in expected)
    assert turns(parse_turns(text)) == expected
    assert turns(parse_turns(parse_turns(text).text)) == expected


@pytest.mark.parametrize("seed", range(40))
def test_any_text_is_a_timeline_or_one_line_of_error(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        text = "".join(rng.choice("0123456789..::--\u2013,,;+[]() \n\tAbs#>\u00e4\ufeff") for _ in range(rng.randint(1, 24)))
        try:
            found, said = parse_turns(text).turns, ""
        except InputError as error:
            found, said = (), str(error)
        assert bool(found) != bool(said) and "\n" not in said
        assert all(0 <= t.start_s < t.end_s and t.speaker.strip() for t in found)


@pytest.mark.parametrize("seed", range(10))
def test_rttm_reads_alike_however_it_is_written(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    expected = [(round(rng.uniform(0, 50), 3), rng.choice(["ann", "bob", "SPEAKER_00"])) for _ in range(rng.randint(1, 9))]
    lines = [rng.choice(["# words", ";; words", "", "LEXEME talk 1 0 1 word lex ann"]) for _ in range(3)]
    for start, name in expected:
        gap = rng.choice([" ", "\t", "   "])
        cells = ["SPEAKER", "talk", "1", f"{start:.3f}", "0.500", "<NA>", "<NA>", name, "<NA>", "<NA>"]
        lines.append(rng.choice(["", " "]) + gap.join(cells))
    text = rng.choice(["\n", "\r\n", "\r"]).join(lines)
    path = tmp_path / "talk.rttm"
    path.write_bytes(text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"])))
    for found in (parse_turns("\ufeff" + text), read_schedule(path)):
        assert [(t.start_s, t.speaker) for t in found.turns] == expected


def test_rttm_in_a_string_and_in_a_file(tmp_path: Path) -> None:
    assert turns(parse_turns(RTTM)) == [(0.0, 2.5, "ann"), (2.5, 4.0, "bob")]
    (tmp_path / "talk.rttm").write_bytes(b"\xef\xbb\xbf" + RTTM.replace("\n", "\r\n").encode())
    assert read_schedule(tmp_path / "talk.rttm").names == ("ann", "bob")
    with pytest.raises(InputError, match="cannot be read"):
        read_schedule(tmp_path / "away.rttm")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SPEAKER a 1 0 1 <NA> <NA> x <NA> <NA>\nSPEAKER a 1 zero 1 <NA> <NA> x", "line 2"),
        ("SPEAKER a 1 0 -1 <NA> <NA> x <NA> <NA>", "line 1"),
        ("SPEAKER a 1 0 1", "line 1"),
        ("SPEAKER a 1 0 nan <NA> <NA> x <NA> <NA>", "line 1"),
        ("SPEAKER a 1 0 1 <NA> <NA> x\nhello", "line 2"),
        ("SPEAKER a 1 0 1 <NA> <NA> x\nSPEAKER b 1 0 1 <NA> <NA> y", "a, b: turns of several recordings"),
        ("SPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA>", "no SPEAKER line"),
    ],
    ids=["no number", "negative", "too few fields", "no length", "not RTTM", "two recordings", "nobody"])
def test_rttm_that_cannot_be_used(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_turns(text)


def test_one_of_several_recordings() -> None:
    text = "SPEAKER a 1 0 1 <NA> <NA> x\nSPEAKER b 1 0 1 <NA> <NA> y"
    assert parse_rttm(text, "b").names == ("y",)
    with pytest.raises(InputError, match="of c"):
        parse_rttm(text, "c")


def test_names_are_in_the_order_in_which_they_begin() -> None:
    assert parse_timeline("4- B, 0-1 A, 2-3 B, 0-1 C").names == ("A", "C", "B")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["A"], "1 of 2 speakers of the timeline; nobody is B; add B"),
        (["A", "B", "D"], "D: has no turn; the timeline names A, B"),
        (["A", "A", "B"], "A: stands there twice"),
    ],
    ids=["too few", "unknown", "twice"])
def test_names_that_do_not_match_are_said(names: list[str], said: str) -> None:
    schedule = parse_timeline("0-1 A, 1-2 B")
    schedule.match(["B", "A"])
    schedule.match(["A"], others=True)
    with pytest.raises(InputError, match=said):
        schedule.match(names)


def test_a_turn_after_the_sound() -> None:
    schedule = parse_timeline("0-1 A, 3- A, 9-10 B")
    assert schedule.inside("A", 5.0) == ((0.0, 1.0), (3.0, math.inf))
    with pytest.raises(InputError, match=r"9-10 B: begins when the sound is over \(5.00 s\)"):
        schedule.inside("B", 5.0)


def test_spans() -> None:
    assert merged([(3, 4), (0, 1), (1, 2), (3.5, 3.7)]) == ((0, 2), (3, 4))
    assert without([(0, 4), (5, 6)], [(1, 2), (3.5, 5.5)]) == ((0, 1), (2, 3.5), (5.5, 6))
    assert without([(0, 4)], [(0, math.inf)]) == ()


def test_turns_that_meet_share_no_latent_and_miss_none() -> None:
    cuts = [0.0, *np.cumsum(np.random.default_rng(0).uniform(0.17, 1.0, 16))]
    spans = [*pairwise(cuts), (cuts[-1], math.inf)]
    count = TIMELINE.num_latents(250)
    one, two = (flags_of_spans(spans[i::2], count, TIMELINE) for i in (0, 1))
    assert (one ^ two).all() and one.any() and two.any()
    shown = spans_of_flags(flags_of_spans([(1.0, 3.0)], count, TIMELINE), TIMELINE)
    assert len(shown) == 1 and shown[0] == pytest.approx((1.0, 3.0), abs=0.081)


def test_a_short_turn_is_not_lost() -> None:
    for start in np.arange(0.1, 2.0, 0.013):
        assert flags_of_spans([(start, start + 0.05)], 14, TIMELINE).sum() == 1


def test_an_open_turn_reaches_the_end() -> None:
    flags = flags_of_spans([(1.0, math.inf)], 14, TIMELINE)
    assert flags[8:].all() and not flags[:6].any()
