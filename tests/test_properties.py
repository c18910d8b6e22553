"""What holds for any input: time axes, timelines, noise levels, manifests. Inputs are the same in every run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tm_core.audio.turns import Span, SpeakingTurns, Turn, flags_of_spans, merged, parse_timeline, parse_turns, spans_of_flags, without
from tm_core.batch.manifest import ManifestError, parse_manifest
from tm_core.config import SamplerConfig
from tm_core.errors import InputError
from tm_core.families.settings import noise_schedule
from tm_core.inputs import MAX_SEED, MAX_STEPS
from tm_core.timeline import Timeline

check = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

RATES = st.sampled_from([Fraction(25), Fraction(16), Fraction(24), Fraction(30), Fraction(30000, 1001)])


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    chunk = draw(st.integers(1, 21))
    return Timeline(
        fps=draw(RATES), chunk_latents=chunk, stride=draw(st.sampled_from([1, 4, 8])),
        first_latents=draw(st.none() | st.integers(chunk, chunk + 20)))


# -- the time axis


@check
@given(timelines(), st.integers(1, 100_000))
def test_chunks_cover_every_frame_once_and_none_is_idle(timeline: Timeline, frames: int) -> None:
    count = timeline.num_chunks(frames)
    last = timeline.frames_of_chunk(count - 1)
    assert frames - 1 in last
    assert timeline.frames_of_chunk(0).start == 0
    for t in range(max(0, count - 3), count):
        here, after = timeline.frames_of_chunk(t), timeline.frames_of_chunk(t + 1)
        assert here.stop == after.start and timeline.latents_of_chunk(t).stop == timeline.latents_of_chunk(t + 1).start
        assert [f for i in timeline.latents_of_chunk(t) for f in timeline.frames_of_latent(i)] == list(here)


@check
@given(timelines(), st.integers(1, 100_000))
def test_no_latent_is_more_than_its_frames_need(timeline: Timeline, frames: int) -> None:
    assert frames - 1 in timeline.frames_of_latent(timeline.num_latents(frames) - 1)


@check
@given(timelines(), st.floats(0, 36_000))
def test_a_sound_has_the_nearest_number_of_frames(timeline: Timeline, duration_s: float) -> None:
    frames = timeline.num_frames(duration_s)
    assert frames == 1 or abs(frames / timeline.fps - Fraction(duration_s)) <= 1 / (2 * timeline.fps) + Fraction(1, 10**6)


@check
@given(timelines(), st.integers(0, 1000), st.integers(0, 5))
def test_a_window_is_centred_on_its_latent_and_looks_ahead_as_far_as_it_says(timeline: Timeline, latent: int, reach: int) -> None:
    window, own = timeline.window_frames(latent, 2 * reach + 1), timeline.frames_of_latent(latent)
    assert len(window) == timeline.stride * (2 * reach + 1)
    assert set(own) <= set(window) and window.stop - own.stop == timeline.lookahead_frames(2 * reach + 1)


# -- turns

MILLISECONDS = st.integers(0, 7_200_000).map(lambda n: n / 1000)
NAMES = st.sampled_from(["A", "Mary Ann", "R2-D2", "s", "to", "1", "Agent 7", "Zo\u00eb", "speaker_00", "A."])
SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda s: (float(s[0]), float(s[0] + s[1]))), max_size=8)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    start = draw(MILLISECONDS)
    end = draw(st.just(math.inf) | MILLISECONDS.map(lambda length: start + length + 0.001))
    return Turn(speaker=draw(NAMES), start_s=start, end_s=round(end, 3))


def holds(spans: Iterable[Span], moment: float) -> bool:
    return any(start <= moment < end for start, end in spans)


@check
@given(st.lists(turns(), min_size=1, max_size=6).map(tuple))
def test_a_written_timeline_is_read_as_it_was_meant(said: tuple[Turn, ...]) -> None:
    assert parse_timeline(SpeakingTurns(turns=said).text).turns == said


@check
@given(st.text(alphabet=st.sampled_from("012.5:-,;+ \nABs[]()>#SPEAKER"), max_size=40) | st.text(max_size=40))
def test_any_text_is_turns_or_one_line_of_error(text: str) -> None:
    try:
        found, said = parse_turns(text).turns, ""
    except InputError as error:
        found, said = (), str(error)
    assert bool(found) != bool(said) and "\n" not in said
    assert all(0 <= t.start_s < t.end_s and t.speaker for t in found)


@check
@given(SPANS, SPANS)
def test_joining_and_taking_away_change_no_moment(spans: list[Span], taken: list[Span]) -> None:
    joined, left = merged(spans), without(spans, taken)
    for part in (joined, left):
        assert all(a[1] < b[0] or (part is left and a[1] <= b[0]) for a, b in pairwise(part))
    for moment in np.arange(0, 52, 0.5):
        assert holds(joined, moment) == holds(spans, moment)
        assert holds(left, moment) == (holds(spans, moment) and not holds(taken, moment))


@check
@given(timelines(), st.lists(st.booleans(), max_size=60))
def test_flags_survive_as_spans(timeline: Timeline, flags: list[bool]) -> None:
    expected = np.array(flags, bool)
    assert np.array_equal(flags_of_spans(spans_of_flags(expected, timeline), len(flags), timeline), expected)


# -- noise levels


@check
@given(st.lists(st.integers(10, 990).map(lambda n: n / 1000), max_size=8, unique=True), st.integers(1, MAX_STEPS))
def test_any_number_of_steps_follows_the_same_curve(levels: list[float], steps: int) -> None:
    base = SamplerConfig(sigmas=(1.0, *sorted(levels, reverse=True)))
    made = noise_schedule(base, steps).sigmas
    assert len(made) == steps and made[0] == 1 and made[-1] > 0
    assert all(a > b for a, b in pairwise(made))
    curve = np.interp(np.linspace(0, base.num_steps, steps + 1)[:-1], range(base.num_steps + 1), [*base.sigmas, 0])
    assert np.allclose(made, curve)
    assert noise_schedule(base, base.num_steps) is base and noise_schedule(base, None) is base


@check
@given(st.integers(1, 8), st.integers(2, 4))
def test_more_steps_keep_the_levels_that_there_were(count: int, times: int) -> None:
    base = SamplerConfig(sigmas=tuple(np.linspace(1, 0, count + 1)[:-1].tolist()))
    assume(count * times <= MAX_STEPS)
    assert np.allclose(noise_schedule(base, count * times).sigmas[::times], base.sigmas)


# -- manifests

OUTS = st.sampled_from([f"{folder}{name}.mp4" for folder in ("", "a/", "b/c/") for name in ("x", "1", "two words", "\u00e4")])
OPTIONS = st.fixed_dictionaries({}, optional={
    "seed": st.integers(0, MAX_SEED), "steps": st.integers(1, MAX_STEPS), "speaking": st.sampled_from(["auto", "speaking", "listening"]),
    "face": st.integers(0, 9), "track": st.integers(0, 5), "framing": st.sampled_from(["picture", "face"]),
    "size": st.integers(64, 4096)})
ITEMS = st.lists(st.tuples(OUTS, OPTIONS), min_size=1, max_size=6, unique_by=lambda one: one[0])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("face.jpg", "voice.wav"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(text: str, folder: Path) -> list[Any]:
    return [replace(item, line=0) for item in parse_manifest(text, lambda name: folder / name, folder / "videos")]


@check
@given(items=ITEMS, delimiter=st.sampled_from(",;\t"))
def test_a_manifest_says_the_same_in_every_notation(files: Path, items: list[tuple[str, dict[str, Any]]], delimiter: str) -> None:
    rows = [{"image": "face.jpg", "audio": "voice.wav", "out": out, **options} for out, options in items]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["image", "audio", "out", *sorted({k for _, o in items for k in o})], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    found = read(table.getvalue(), files)
    assert [item.out for item in found] == [out for out, _ in items]
    for item, (_, options) in zip(found, items, strict=True):
        assert {name: getattr(item.options, name) for name in options} == options
    assert read("\n".join(map(json.dumps, rows)), files) == read(json.dumps(rows, indent=1), files) == found


@check
@given(text=st.text(alphabet=st.sampled_from('image,audio;out\tseed"{}[]:\\\n 0.mp4#-'), max_size=80) | st.text(max_size=40))
def test_any_text_is_no_manifest_in_so_many_words(files: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text, files)
    if isinstance(caught.value, ManifestError):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
        assert all(1 <= problem.line <= lines for problem in caught.value.problems)
