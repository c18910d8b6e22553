"""Scenes and the pieces they are cut into."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tm_core.config import tiny
from tm_core.media import VideoReader
from tm_core.train.footage import FootageConfig
from tm_core.train.footage.scene_cuts import TickRange, frames_of, pieces, scenes


def test_a_hole_in_the_stamps_ends_a_scene(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "hole.mkv"), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = 32, 32, "yuv420p", Fraction(1, 1000)
        for number, ms in enumerate([*range(0, 4000, 40), *range(10000, 14000, 40)]):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), "rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())
    with VideoReader(tmp_path / "hole.mkv", Fraction(25), hole_s=1.0) as pictures:
        found = scenes(pictures, 25.0, FootageConfig())
    assert found and not [s for s in found if s.start < 150 and s.stop > 240]


@pytest.mark.parametrize(
    ("frames", "clips"),
    [(104, []), (105, [105]), (249, [249]), (250, [249]), (340, [165, 165]), (360, [249, 105]), (1000, [249, 249, 249, 249])])
def test_scenes_become_pieces_of_whole_chunks(frames: int, clips: list[int]) -> None:
    n = tiny().sampler.chunk_latents
    found = pieces(TickRange(start=7, stop=7 + frames), 25.0, n, FootageConfig())
    assert [len(p) for p in found] == clips
    assert all(a.stop <= b.start for a, b in pairwise(found))
    assert all((len(p) - 1) % 4 == 0 and (1 + (len(p) - 1) // 4) % n == 0 for p in found)
    assert frames_of(9, n) == 105
