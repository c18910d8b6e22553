"""The report of a whole video."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.metrics.syncnet import ASSETS, BUNDLED
from tm_core.metrics.video_score import BLOCK, blocks, score_video

from .conftest import FPS, Clip


@pytest.mark.slow
def test_report_of_a_talking_video(clip: Clip, mesh: FaceMesh) -> None:
    report = score_video(iter(clip.frames), FPS, clip.samples, mesh=mesh)
    assert json.loads(json.dumps(report)) == report
    assert report["frames"] == len(clip.frames) and (report["width"], report["height"]) == (128, 128)
    assert report["face_found"] == 1.0
    assert report["sync"]["recogniser"] == "pocketsphinx" and report["sync"]["peak_r"] > 0.6
    assert report["sync"]["against_shifted"]["median_margin"] > 0.2
    assert report["silence"]["ratio"] < 0.6 and report["closure"]["count"] > 3
    assert report["drift"]["worst_change"] < 0.15
    if all((ASSETS / name).is_file() for name in BUNDLED):
        assert set(report["syncnet"]) == {"sync_c", "sync_d", "offset_frames", "seconds"} and 5 < report["syncnet"]["seconds"] <= 10
        assert report["notes"] == []
    else:
        assert report["syncnet"] is None and [n[:9] for n in report["notes"]] == ["syncnet: "]


def test_known_phones_are_used(clip: Clip, mesh: FaceMesh) -> None:
    report = score_video(iter(clip.frames[:100]), FPS, clip.samples[: 100 * 640], mesh=mesh, phones=clip.phones)
    assert report["sync"]["recogniser"] == "known" and report["sync"]["peak_r"] > 0.6


@pytest.mark.parametrize("samples", [None, np.zeros(16000, np.float32)], ids=["no-sound", "digital-silence"])
def test_without_sound_the_rest_is_measured(samples: np.ndarray | None, clip: Clip, mesh: FaceMesh) -> None:
    report = score_video(iter(clip.frames[:30]), FPS, samples, mesh=mesh)
    assert report["sync"] is None and report["silence"] is None and "no sound" in report["notes"][0]
    assert report["drift"] is not None


def test_short_video_says_why_it_is_not_judged(clip: Clip, mesh: FaceMesh) -> None:
    report = score_video(iter(clip.frames[:5]), FPS, clip.samples[:3200], mesh=mesh)
    assert report["sync"] is None and any("shorter than 1 s" in n for n in report["notes"])


def test_no_face_and_no_frames_are_input_errors(mesh: FaceMesh) -> None:
    with pytest.raises(InputError, match="video: 3 frames: no face found"):
        score_video(iter(np.zeros((3, 64, 64, 3), np.uint8)), FPS, None, mesh=mesh)
    with pytest.raises(InputError, match="holds no picture"):
        score_video(iter([]), FPS, None, mesh=mesh)


def test_frames_are_read_in_small_blocks(clip: Clip) -> None:
    """Never more than one block ahead of what has been looked at: memory does not grow with length."""
    pulled = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal pulled
        for frame in clip.frames:
            pulled += 1
            yield frame

    seen = 0
    for block in blocks(source()):
        seen += len(block)
        assert pulled == seen and len(block) <= BLOCK
    assert seen == len(clip.frames)
