"""Drift of a 5-minute stream: sharpness and colour of the face, last minute against first, and a contact sheet.

The sheet holds one frame per 20 s, to be looked at: docs/drift.jpg, or drift.jpg in the folder of `--out`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks._common import ROOT, Reporter, Result, load, result, say, speech_of, stream_of
from benchmarks._sheet import contact_sheet
from tm_core import app
from tm_core.errors import InputError
from tm_core.metrics.drift import Trend
from tm_core.metrics.score import measure
from tm_core.streaming.handles import FrameStream

SECONDS, SHEET_EVERY_S, MAX_CHANGE = 300.0, 20.0, 0.10
BAR = f"within {MAX_CHANGE:.0%}"


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """Trends of the face over a long stream of the bundled portrait and speech."""
    total = seconds or SECONDS
    say(f"a stream of {total:g} s")
    stream = stream_of(load(weights, device), speech_of(total))
    watched = _Watched(stream=stream)
    _, meter, _ = measure(watched.frames(), float(stream.meta.fps), app.face_mesh())
    score = meter.score()
    if score is None:
        raise InputError("weights", weights or "bundled", "its video shows no face", "train the model further")
    sheet = contact_sheet(watched.sheet, (out or ROOT / "docs") / "drift.jpg")
    say(f"contact sheet: {sheet}")
    colours = {"red": score.red, "green": score.green, "blue": score.blue}
    return [
        result("stream", total, "s"),
        _within("sharpness of the face", score.sharpness),
        *(_within(f"{name} of the face", trend) for name, trend in colours.items()),
        _within("contrast of the face", score.contrast),
        result("colour shift of the face", score.colour_shift, "delta E"),
        result("change of the face's shape", score.shape_shift, "of its height"),
        result("background against frame 0, worst", score.background_db, "dB"),
    ]


def _within(what: str, trend: Trend) -> Result:
    change = trend.ratio - 1
    return result(f"{what}, last window over first", trend.ratio, "", BAR, abs(change) <= MAX_CHANGE)


@dataclass
class _Watched:
    """Hands on every frame and keeps one in 20 s for the sheet."""

    stream: FrameStream
    sheet: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def frames(self) -> Iterator[np.ndarray]:
        meta = self.stream.meta
        every, tell = round(SHEET_EVERY_S * meta.fps), Reporter(total_s=meta.duration_s)
        for chunk in self.stream:
            for i, frame in enumerate(chunk.frames, chunk.pts):
                if i % every == 0 or i == meta.num_frames - 1:
                    self.sheet.append((f"{float(i / meta.fps):.0f} s", frame.copy()))
                yield frame
            tell(float(chunk.pts * chunk.time_base))
