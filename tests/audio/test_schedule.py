"""Written timelines, RTTM, names that match or not, and flags of latents."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tm_core.audio.schedule import (
    Schedule,
    flags_of_spans,
    merged,
    parse_rttm,
    parse_schedule,
    parse_timeline,
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


def turns(schedule: Schedule) -> list[tuple[float, float, str]]:
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
    ],
    ids=["the issue's", "open", "open without a space", "a name that begins with a digit", "names, lines, gaps", "minutes", "overlap"])
def test_timelines(text: str, expected: list[tuple[float, float, str]]) -> None:
    schedule = parse_timeline(text)
    assert turns(schedule) == expected
    assert turns(parse_schedule(schedule.text)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "nothing"), (" ,\n", "nothing"), ("0-1 A, 3-2 B", "'3-2 B'"), ("0-1 A, 2-2 B", "'2-2 B'"), ("0-1 A, 2-3", "'2-3'"),
        ("0-1 A, B 2-3", "'B 2-3'"), ("0-1 A, 1-2 B +", "'1-2 B +'"), ("-1-2 A", "'-1-2 A'"), ("0,5-2 A", "'0'"),
        ("1-2-3 A+", "'1-2-3 A+'"),
    ],
    ids=["empty", "only separators", "backwards", "no length", "no name", "name first", "half a pair", "negative", "decimal comma", "odd"])
def test_the_part_that_cannot_be_read_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_timeline(text)
    assert caught.value.value == part
    assert caught.value.remedy.startswith(("write for example 0-2.5 A", "give an end after the start"))


def test_rttm_in_a_string_and_in_a_file(tmp_path: Path) -> None:
    assert turns(parse_schedule(RTTM)) == [(0.0, 2.5, "ann"), (2.5, 4.0, "bob")]
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
        parse_schedule(text)


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
