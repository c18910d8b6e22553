"""Where scenes are cut, and which pieces of them become clips.

Cuts are PySceneDetect's adaptive detector, the library of paper section 4: the change of hue, saturation and brightness
against the neighbouring frames', so a moving camera is no cut. Dissolves are not seen here; a face that changes size or
jumps is (face_track.py). The detector looks at small pictures and never at the file, so every pass shares one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import av
import numpy as np

from ...errors import InputError
from ...media.video_reader import to_rgb
from .thresholds import FootageConfig

SMALL = 160  # pixels of the longer side the detector looks at
EDGE = 2  # ticks left out on both sides of a cut: encoders smear it
INSTALL = "run: pip install 'talking-machines[data]'"


@dataclass(frozen=True, kw_only=True)
class TickRange:
    """Ticks start..stop (stop not included)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def detector(fps: float, cfg: FootageConfig) -> Callable[[int, np.ndarray], list[int]]:
    """(tick, BGR picture) -> the ticks that are now known to begin a scene; InputError without PySceneDetect."""
    try:
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError as error:
        raise InputError("data", "PySceneDetect", "is not installed", INSTALL) from error
    adaptive = AdaptiveDetector(adaptive_threshold=cfg.scene_ratio, min_content_val=cfg.scene_change, min_scene_len=round(0.5 * fps))
    return lambda tick, bgr: [c.frame_num for c in adaptive.process_frame(FrameTimecode(tick, fps=fps), bgr)]


def scenes(ticks: Iterable[tuple[int, av.VideoFrame]], fps: float, cfg: FootageConfig) -> list[TickRange]:
    """All scenes of a video; a hole in its ticks ends one as well. InputError without PySceneDetect."""
    cuts = detector(fps, cfg)
    edges: list[int] = []
    holes: list[int] = []
    last = None
    for tick, frame in ticks:
        if last is None or tick != last + 1:
            holes += [] if last is None else [last + 1]
            edges += [*holes[-1:], tick]
        last = tick
        small = np.ascontiguousarray(to_rgb(frame, SMALL)[..., ::-1])
        edges += cuts(tick, small)
    if last is None:
        return []
    return _spans(sorted({*edges, last + 1}), holes)


def _spans(edges: list[int], holes: list[int]) -> list[TickRange]:
    """Scenes between these edges, without the frames next to a cut; the file's own ends are whole."""
    return [
        TickRange(start=a + EDGE * (a != edges[0]), stop=max(a + EDGE, b - EDGE * (b != edges[-1]))) for a, b in pairwise(edges)
        if a not in holes]


def frames_of(chunks: int, chunk_latents: int, stride: int = 4) -> int:
    """Frames of a clip of whole chunks, the first latent being one frame."""
    return 1 + stride * (chunks * chunk_latents - 1)


def pieces(scene: TickRange, fps: float, chunk_latents: int, cfg: FootageConfig) -> list[TickRange]:
    """Clips of whole chunks of min_seconds to max_seconds in a scene; the rest of a long one is halved, not lost."""
    low = _least_chunks(cfg.min_seconds * fps, chunk_latents)
    high = max(low, _least_chunks(cfg.max_seconds * fps, chunk_latents) - 1)
    start, stop, found = scene.start, scene.stop, []
    while (chunks := _whole_chunks(stop - start, chunk_latents)) >= low:
        left = _whole_chunks(stop - start - frames_of(high, chunk_latents), chunk_latents)
        if chunks > high:
            chunks = high if left >= low else max(low, _whole_chunks((stop - start) // 2, chunk_latents))
        found.append(TickRange(start=start, stop=start + frames_of(chunks, chunk_latents)))
        start = found[-1].stop
    return found


def _whole_chunks(frames: int, chunk_latents: int) -> int:
    return 0 if frames < 1 else (1 + (frames - 1) // 4) // chunk_latents


def _least_chunks(frames: float, chunk_latents: int) -> int:
    """Fewest chunks that cover this many frames."""
    chunks = 1
    while frames_of(chunks, chunk_latents) < frames:
        chunks += 1
    return chunks
