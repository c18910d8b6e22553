"""Latency figures on a clock the test turns by hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

from tm_core.streaming.metrics import StreamMetrics, percentile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_first_frame_counts_from_the_start_of_the_job() -> None:
    clock = Clock()
    metrics = StreamMetrics(chunk_s=0.48, fps=25, started=98.0, clock=clock)
    clock.now = 101.0
    metrics.frames_out(9)
    clock.now = 101.5
    metrics.frames_out(12)
    clock.now = 102.5
    metrics.frames_out(4)
    report = metrics.report()
    assert report["ttff_s"] == 3.0
    assert report["ttbc_s"] == {"p50": 0.5, "p95": 1.0, "max": 1.0}
    assert report["frames"] == 25 and report["video_s"] == 1.0
    assert report["rtf"] == 4.5


def test_hidden_decoding_is_the_overlap_with_denoising() -> None:
    clock = Clock()
    metrics = StreamMetrics(chunk_s=0.48, fps=25, clock=clock)
    with metrics.denoising():  # 100 .. 101
        clock.now = 101.0
    with metrics.decoding():  # 101 .. 104, of which 102 .. 104 beside the second step
        clock.now = 102.0
        step = metrics.denoising()
        step.__enter__()
        clock.now = 104.0
    assert metrics.decode_hidden == pytest.approx(2 / 3)
    clock.now = 105.0
    step.__exit__(None, None, None)
    assert metrics.denoise_s == pytest.approx(4.0)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5.0), (0.95, 10.0), (1.0, 10.0), (0.0, 1.0)])
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile(array("d", [3, 1, 2, 10, 9, 8, 7, 6, 5, 4]), share) == expected


def test_an_empty_run_has_numbers_too() -> None:
    report = StreamMetrics(chunk_s=0.48, fps=25).report()
    assert report["frames"] == 0 and report["rtf"] == 0.0 and report["ttbc_s"]["max"] == 0.0


def test_resident_memory_sees_an_allocation() -> None:
    """In a process of its own: one that ran other tests has freed memory to give, and stays as large as it is."""
    code = """
import numpy as np
from tm_core.streaming.metrics import current_rss_mb, peak_rss_mb
before = current_rss_mb()
block = np.ones(64 * 2**20, dtype=np.uint8)
now = current_rss_mb()
assert now - before > 50, (before, now)
assert peak_rss_mb() >= now - 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_counting_is_safe_from_two_threads() -> None:
    metrics = StreamMetrics(chunk_s=0.48, fps=25)

    def decode() -> None:
        for _ in range(200):
            with metrics.decoding():
                pass

    thread = threading.Thread(target=decode)
    thread.start()
    for _ in range(200):
        with metrics.denoising():
            pass
    thread.join()
    assert 0.0 <= metrics.hidden_s <= metrics.decode_s + 1e-9
