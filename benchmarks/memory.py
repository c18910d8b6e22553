"""Memory of a 10-minute stream that is saved: growth of peak RSS after the first minute.

`--seconds` shortens the stream; of less than two minutes the first half is the first minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._common import Reporter, Result, load, result, say, speech_of, stream_of, write_wav
from tm_core.media.video_io import VideoWriter
from tm_core.streaming.metrics import current_rss_mb

SECONDS, MAX_GROWTH_MB = 600.0, 50.0


def run(*, weights: Path | None = None, device: str = "auto", seconds: float | None = None) -> list[Result]:
    """Growth of resident memory while a long stream is written to an mp4."""
    total = seconds or SECONDS
    warm = min(60.0, total / 2)
    say(f"a stream of {total:g} s, saved as mp4")
    frames = stream_of(load(weights, device), speech_of(total))
    meta, tell, first, peak = frames.meta, Reporter(total_s=total), 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        sound = write_wav(Path(folder) / "long.wav", speech_of(total))
        with VideoWriter(Path(folder) / "long.mp4", meta.width, meta.height, meta.fps, audio=sound) as writer:
            for chunk in frames.chunks():
                writer.write(chunk.frames)
                now_s, rss = float(chunk.pts * chunk.time_base), current_rss_mb()
                peak = max(peak, rss)
                if now_s <= warm:
                    first = peak
                tell(now_s)
    growth = peak - first
    return [
        result("stream", total, "s"),
        result(f"peak RSS in the first {warm:g} s", first, "MB"),
        result("peak RSS", peak, "MB"),
        result("growth after the first minute", growth, "MB", f"< {MAX_GROWTH_MB:g}", growth < MAX_GROWTH_MB),
    ]
