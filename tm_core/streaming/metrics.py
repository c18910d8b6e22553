"""Latency of one run of the pipeline: first frame, time between chunks, rates, memory, hidden decoding.

Times are seconds on the monotonic clock, measured where the frames leave the pipeline. Non-goals: quality
(tm_core.metrics). Paper section 4 and table 3: TTBC against the duration of a chunk.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Clock = Callable[[], float]
KEPT_INTERVALS = 16  # denoising steps remembered to compare a decode with; a decode spans one or two


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MB (0 where the system does not say)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def current_rss_mb() -> float:
    """Resident memory of this process now, in MB (0 where the system does not say)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 2**10
    return 0.0


def process_started() -> float:
    """When this process began, on the monotonic clock (now, where the system does not say)."""
    now, stat = time.monotonic(), Path("/proc/self/stat")
    if not stat.exists():
        return now
    ticks = int(stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return now - max(0.0, age)


def percentile(values: array[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie, nearest rank; 0 if there are none."""
    if not values:
        return 0.0
    return float(np.quantile(values, share, method="inverted_cdf"))


class StreamMetrics:
    """Filled in by the pipeline's threads while it runs; read it at any time.

    Grows by 8 bytes a chunk (about 60 kB an hour), nothing else.
    """

    def __init__(self, *, chunk_s: float, fps: float, started: float | None = None, clock: Clock = time.monotonic) -> None:
        """`chunk_s` duration of a chunk's video; `started` when the job began on `clock`, now if left out."""
        self.chunk_s, self.fps = chunk_s, fps
        self.frames = 0
        self.chunks = 0
        self.ttff_s: float | None = None
        self.ttbc_s: array[float] = array("d")
        self.denoise_s = 0.0
        self.decode_s = 0.0
        self.hidden_s = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._start = clock() if started is None else started
        self._last = self._start
        self._denoising: deque[tuple[float, float]] = deque(maxlen=KEPT_INTERVALS)
        self._denoising_since: float | None = None

    @contextmanager
    def denoising(self) -> Iterator[None]:
        """Marks the denoise worker as busy."""
        start = self._clock()
        with self._lock:
            self._denoising_since = start
        try:
            yield
        finally:
            end = self._clock()
            with self._lock:
                self._denoising_since = None
                self._denoising.append((start, end))
                self.denoise_s += end - start

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Marks the decode worker as busy; what overlaps denoising counts as hidden."""
        start = self._clock()
        try:
            yield
        finally:
            end = self._clock()
            with self._lock:
                self.decode_s += end - start
                self.hidden_s += self._overlap(start, end)

    def _overlap(self, start: float, end: float) -> float:
        running = [(self._denoising_since, end)] if self._denoising_since is not None else []
        return sum(max(0.0, min(end, b) - max(start, a)) for a, b in [*self._denoising, *running])

    def work_of(self, parts: Iterable[StreamMetrics]) -> None:
        """Take over the times of the streams that this one is made of."""
        made = [(part.denoise_s, part.decode_s, part.hidden_s) for part in parts]
        self.denoise_s, self.decode_s, self.hidden_s = (sum(times) for times in zip(*made, strict=True))

    def frames_out(self, count: int) -> None:
        """A chunk of `count` frames has left the pipeline."""
        now = self._clock()
        if self.ttff_s is None:
            self.ttff_s = now - self._start
        else:
            self.ttbc_s.append(now - self._last)
        self._last = now
        self.frames += count
        self.chunks += 1

    @property
    def elapsed_s(self) -> float:
        """From the start to the frames that came out last."""
        return self._last - self._start

    @property
    def video_s(self) -> float:
        """Duration of the frames so far."""
        return self.frames / self.fps

    @property
    def frames_per_s(self) -> float:
        """Mean rate since the start."""
        return self.frames / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def rtf(self) -> float:
        """Seconds of work per second of video; below 1 is faster than real time."""
        return self.elapsed_s / self.video_s if self.frames else 0.0

    @property
    def decode_hidden(self) -> float:
        """Share (0..1) of decoding time during which the denoise worker was busy as well."""
        return self.hidden_s / self.decode_s if self.decode_s > 0 else 0.0

    def report(self) -> dict[str, Any]:
        """The numbers as JSON types; ttbc_s against chunk_s says whether the stream keeps up."""
        return {
            "frames": self.frames,
            "video_s": round(self.video_s, 3),
            "ttff_s": round(self.ttff_s or 0.0, 3),
            "ttbc_s": {
                "p50": round(percentile(self.ttbc_s, 0.5), 3),
                "p95": round(percentile(self.ttbc_s, 0.95), 3),
                "max": round(max(self.ttbc_s, default=0.0), 3),
            },
            "chunk_s": round(self.chunk_s, 3),
            "generation_fps": round(self.frames_per_s, 2),
            "rtf": round(self.rtf, 3),
            "denoise_s": round(self.denoise_s, 3),
            "decode_s": round(self.decode_s, 3),
            "decode_hidden": round(self.decode_hidden, 3),
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }
