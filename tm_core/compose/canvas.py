"""Streams on a canvas: portraits side by side, or animated faces put back into the picture they were cut from.

Layers are painted from the lowest up, each frame resampled to its place and blended by its mask; where a mask is 0 the canvas
keeps its pixels to the bit. One frame of every layer is in memory besides the chunk it came in. Non-goals: sound (mix.py),
what the layers show.

Shapes: H x W canvas, h x w a layer's own frames, T frames of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from PIL import Image

from ..errors import InputError
from ..model.talking import WeightNeeds, load_weights
from ..streaming.cancel import CancelToken, LinkedToken
from ..streaming.handles import StreamMeta
from ..streaming.metrics import StreamMetrics
from ..streaming.pipeline import FrameChunk, Poll

Box = tuple[float, float, float, float]
Sides = tuple[bool, bool, bool, bool]  # left, top, right, bottom
EDGE = 0.12  # of the layer's side: how far a soft edge reaches in
BORDER = 0.15  # of a face's size: how far two faces' regions fade into one another
ALIKE, SMOOTH = (6.0, 20.0), 7  # levels of 255 at which detail begins to leave and has left, on a mean over so many pixels


class FrameStream(Protocol):
    """What a sink pulls from: a FrameStream, or streams composed."""

    @property
    def meta(self) -> StreamMeta:
        """Size, rate, length and sound."""

    def new_metrics(self, started: float | None = None) -> StreamMetrics:
        """Metrics to hand to `chunks`."""

    def needs(self) -> list[WeightNeeds]:
        """Weights that must be where they compute while this runs."""

    def chunks(
        self, *, cancel: CancelToken | None = None, poll: Poll | None = None, metrics: StreamMetrics | None = None, loaded: bool = False,
    ) -> Generator[FrameChunk, None, None]:
        """All chunks from the first. `loaded`: what it needs is in place already."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A stream and its place: `box` (x0, y0, x1, y1) in the canvas's pixel edges, fractional or beyond it as well.

    `mask` (any size) in 0..1 lies over the whole box, None: opaque; of booleans, in the box's own pixels: which are replaced.
    Before `start_s` the first frame stands, after the end the last. Higher `z` is painted later; equal ones in
    their order. `still` (h, w, 3) uint8 is what the canvas was cut and shrunk to: where frames look like it, the canvas's finer
    detail is given back.
    """

    frames: FrameStream
    box: Box
    mask: np.ndarray | None = None
    still: np.ndarray | None = None
    start_s: float = 0.0
    z: int = 0


class ComposedStream:
    """Layers on a canvas (H, W, 3) uint8, as a stream of its own; every iteration runs all layers anew."""

    def __init__(self, canvas: np.ndarray, layers: Sequence[Layer], meta: StreamMeta) -> None:
        """`meta` says size, rate, length and sound; InputError for no layer, or one that lies beside the canvas."""
        if not layers:
            raise InputError("layers", 0, "a canvas needs at least one stream", "connect one")
        self._canvas, self._meta = canvas, meta
        self._layers = [(layer, _Place(layer, canvas)) for layer in sorted(layers, key=lambda one: one.z)]

    def __iter__(self) -> Iterator[FrameChunk]:
        return self.chunks()

    @property
    def meta(self) -> StreamMeta:
        """Size, rate, length and sound of the whole."""
        return self._meta

    @property
    def layers(self) -> list[Layer]:
        """What is painted, from the lowest up."""
        return [layer for layer, _ in self._layers]

    def new_metrics(self, started: float | None = None) -> StreamMetrics:
        """Metrics to hand to `chunks`: of denoising and decoding they hold the sum of all layers."""
        return StreamMetrics(chunk_s=self.meta.chunk_s, fps=float(self.meta.fps), started=started)

    def needs(self) -> list[WeightNeeds]:
        """Weights of all layers: they run at the same time."""
        return [need for layer, _ in self._layers for need in layer.frames.needs()]

    def chunks(
        self, *, cancel: CancelToken | None = None, poll: Poll | None = None, metrics: StreamMetrics | None = None, loaded: bool = False,
    ) -> Generator[FrameChunk, None, None]:
        """All chunks from the first. Raises what any layer raises; all workers of all layers have ended when it has."""
        if not loaded:
            load_weights(self.needs())
        return self._run(cancel, poll, metrics)

    def _run(self, cancel: CancelToken | None, poll: Poll | None, metrics: StreamMetrics | None) -> Generator[FrameChunk, None, None]:
        fps, timeline, total = self._meta.fps, self._meta.timeline, self._meta.total_frames
        token = LinkedToken(cancel)
        with ExitStack() as stack:
            readers = [(stack.enter_context(closing(_Reader(layer, token, poll))), place) for layer, place in self._layers]
            stack.callback(token.cancel)  # comes first: all layers stop at once and are joined after
            for index in range(self._meta.num_chunks):
                span = timeline.frames_of_chunk(index)
                kept = range(span.start, min(span.stop, total))
                frames = np.empty((len(kept), *self._canvas.shape), np.uint8)
                for frame, number in zip(frames, kept, strict=True):
                    self._paint(frame, readers, Fraction(number) / fps)
                if metrics is not None:
                    metrics.work_of(reader.metrics for reader, _ in readers)
                    metrics.frames_out(len(frames))
                yield FrameChunk(index=index, frames=frames, pts=span.start, time_base=1 / fps)
                del frames  # a chunk of a large picture has hundreds of megabytes: the sink alone holds it

    def _paint(self, frame: np.ndarray, readers: Sequence[tuple[_Reader, _Place]], time_s: Fraction) -> None:
        frame[:] = self._canvas
        for reader, place in readers:
            place.paint(frame, reader.frame_at(time_s))


class _Reader:
    """One layer's frames by time, which only goes on."""

    def __init__(self, layer: Layer, cancel: CancelToken, poll: Poll | None) -> None:
        self._start, self._meta = Fraction(layer.start_s).limit_denominator(10**6), layer.frames.meta
        self.metrics = layer.frames.new_metrics()
        self._chunks = layer.frames.chunks(cancel=cancel, poll=poll, metrics=self.metrics, loaded=True)
        self._held: FrameChunk | None = None

    def frame_at(self, time_s: Fraction) -> np.ndarray:
        """The frame (h, w, 3) that shows at this time."""
        number = int((time_s - self._start) * self._meta.fps) if time_s > self._start else 0
        number = min(number, self._meta.total_frames - 1)
        while self._held is None or number >= self._held.pts + len(self._held.frames):
            self._held = next(self._chunks)
        frame: np.ndarray = self._held.frames[number - self._held.pts]
        return frame

    def close(self) -> None:
        """End the layer's workers."""
        self._chunks.close()


class _Place:
    """Where a layer lies, in whole pixels, and how much of it counts there."""

    def __init__(self, layer: Layer, canvas: np.ndarray) -> None:
        x0, y0, x1, y1 = layer.box
        canvas_hw = canvas.shape[:2]
        self._left, self._top = max(0, int(np.ceil(x0))), max(0, int(np.ceil(y0)))
        right, bottom = min(canvas_hw[1], int(np.floor(x1))), min(canvas_hw[0], int(np.floor(y1)))
        self._size = right - self._left, bottom - self._top
        if min(self._size) < 1:
            where = ", ".join(f"{v:g}" for v in layer.box)
            rule = f"lies outside the canvas of {canvas_hw[1]} x {canvas_hw[0]}"
            raise InputError("layer", f"({where})", rule, "move it onto the canvas")
        self._inside = ((self._left - x0) / (x1 - x0), (self._top - y0) / (y1 - y0), (right - x0) / (x1 - x0), (bottom - y0) / (y1 - y0))
        self._own = layer.mask[..., None] if layer.mask is not None and layer.mask.dtype == bool else None
        soft = None if self._own is not None else layer.mask
        self._alpha = None if soft is None else self._resized(soft.astype(np.float32), Image.Resampling.BILINEAR)[..., None]
        self._still = layer.still
        self._detail = None if layer.still is None else self._region(canvas) - self._resized(layer.still, Image.Resampling.BICUBIC)

    def _resized(self, picture: np.ndarray, how: Image.Resampling) -> np.ndarray:
        height, width = picture.shape[:2]
        box = tuple(min(max(v * n, 0.0), float(n)) for v, n in zip(self._inside, (width, height) * 2, strict=True))
        return np.asarray(Image.fromarray(picture).resize(self._size, how, box=box))

    def paint(self, canvas: np.ndarray, frame: np.ndarray) -> None:
        """Put a frame (h, w, 3) uint8 onto the canvas (H, W, 3) uint8, in place."""
        same = frame.shape[1::-1] == self._size and self._inside == (0.0, 0.0, 1.0, 1.0)
        shown = frame if same else self._resized(frame, Image.Resampling.BICUBIC)
        if self._detail is None and self._alpha is None:
            np.copyto(self._region(canvas, np.uint8), shown, where=True if self._own is None else self._own)
            return
        picture = shown.astype(np.float32)  # in place from here on: it may have as many pixels as the canvas
        if self._detail is not None:
            picture += self._detail * self._likeness(frame)
        region = self._region(canvas, np.uint8)
        if self._alpha is not None:
            below = region.astype(np.float32)
            picture -= below
            picture *= self._alpha
            picture += below
        region[:] = np.clip(np.rint(picture, out=picture), 0, 255, out=picture)

    def _region(self, canvas: np.ndarray, kind: type = np.float32) -> np.ndarray:
        """The layer's part of a canvas; a view where the type is the canvas's own."""
        part = canvas[self._top : self._top + self._size[1], self._left : self._left + self._size[0]]
        return part.astype(kind, copy=False)

    def _likeness(self, frame: np.ndarray) -> np.ndarray:
        """(H', W', 1) in 0..1: 1 where a frame looks like the still, smooth, so that no edge of it shows."""
        assert self._still is not None
        change = np.abs(frame.astype(np.int16) - self._still).max(2).astype(np.float32)
        from scipy.ndimage import uniform_filter  # dear to import

        alike = np.clip(ALIKE[1] - uniform_filter(change, SMOOTH), 0, ALIKE[1] - ALIKE[0]) / (ALIKE[1] - ALIKE[0])
        return self._resized(alike, Image.Resampling.BILINEAR)[..., None]


def soft_edge(size: int = 256, reach: float = EDGE, sides: Sides = (True, True, True, True)) -> np.ndarray:
    """Mask (size, size): 0 at the soft sides, 1 from `reach` of the side on inside, round at the corners."""
    left, top, right, bottom = sides
    across, down = _ramp(size, reach, left, right), _ramp(size, reach, top, bottom)
    near = 1 - np.minimum(1, np.hypot(1 - down[:, None], 1 - across[None]))
    return np.asarray((0.5 - 0.5 * np.cos(np.pi * near)) * (down > 0)[:, None] * (across > 0), np.float32)


def inner_sides(box: Box, canvas_wh: tuple[int, int]) -> Sides:
    """Which sides of a box lie inside the canvas; at the others there is nothing to fade into."""
    return box[0] > 0, box[1] > 0, box[2] < canvas_wh[0], box[3] < canvas_wh[1]


def _ramp(size: int, reach: float, first: bool, last: bool) -> np.ndarray:
    """(size,) from 0 to 1 and back within `reach` of the ends that are soft."""
    at = (np.arange(size) + 0.5) / size
    ramp = np.clip(np.minimum(at if first else np.ones(size), 1 - at if last else 1) / reach, 0, 1)
    ramp[[i for i, soft in ((0, first), (-1, last)) if soft]] = 0
    return np.asarray(ramp)


def apart(boxes: Sequence[Box], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks (h, w) over their boxes, cut where another box is nearer: no face is painted over by its neighbour's crop.

    Nearness is distance from the box's centre over its size; the border between two is soft and their masks add up to 1 there.
    """
    made = []
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        mine = _distance(box, box, mask.shape)
        share = np.ones_like(mine)
        for j, other in enumerate(boxes):
            if j != i:
                share = np.minimum(share, np.clip((_distance(other, box, mask.shape) - mine) / BORDER + 0.5, 0, 1))
        made.append(np.asarray(mask * share, np.float32))
    return made


def _distance(box: Box, where: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Distance from a box's centre over half its side, on a grid (h, w) that lies over `where`."""
    x = where[0] + (np.arange(shape[1]) + 0.5) / shape[1] * (where[2] - where[0])
    y = where[1] + (np.arange(shape[0]) + 0.5) / shape[0] * (where[3] - where[1])
    half = max(box[2] - box[0], box[3] - box[1]) / 2
    return np.asarray(np.hypot(x[None] - (box[0] + box[2]) / 2, y[:, None] - (box[1] + box[3]) / 2) / half)
