"""Time is data: frames, latents and chunks."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from tm_core.timeline import Timeline


@pytest.mark.parametrize(
    ("first", "chunk", "frames", "lengths"), [(9, 7, 90, [33, 28, 28, 1]), (6, 8, 60, [21, 32, 7]), (21, 18, 81, [81])])
def test_a_longer_first_chunk(first: int, chunk: int, frames: int, lengths: list[int]) -> None:
    """FlashTalk's clips of 33 frames with 5 repeated, LiveAct's blocks of 6 and 8 latents, one clip of InfiniteTalk."""
    timeline = Timeline(fps=Fraction(25), chunk_latents=chunk, first_latents=first)
    spans = [timeline.frames_of_chunk(t) for t in range(timeline.num_chunks(frames))]
    assert [len(range(s.start, min(s.stop, frames))) for s in spans] == lengths
    assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
