"""Streams on a canvas: every frame in its place and at its time, and nothing else touched."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.streaming.test_sampler import CONFIG, random_model
from tm_core import talk
from tm_core.compose.canvas import ComposedStream, Layer, apart, inner_sides, soft_edge
from tm_core.errors import Cancelled, InputError
from tm_core.model.talking import WeightNeeds
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.handles import DecodedStream, StreamMeta
from tm_core.streaming.metrics import StreamMetrics
from tm_core.streaming.pipeline import FrameChunk, Poll, run_pipeline
from tm_core.streaming.sampler import LatentChunk, Scene
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline

CANVAS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def meta_of(frames: int, fps: int = 25, width: int = 90, height: int = 60) -> StreamMeta:
    return StreamMeta(width=width, height=height, num_frames=frames, timeline=Timeline(fps=Fraction(fps)), audio_s=frames / fps)


class Numbered:
    """A stream whose frame i is all of level i; counts what is pulled and whether it was closed."""

    def __init__(self, frames: int, *, fps: int = 25, size: int = 16) -> None:
        self.meta, self.size = meta_of(frames, fps, size, size), size
        self.pulled, self.closed = 0, 0

    def new_metrics(self, started: float | None = None) -> StreamMetrics:
        return StreamMetrics(chunk_s=self.meta.chunk_s, fps=float(self.meta.fps), started=started)

    def needs(self) -> list[WeightNeeds]:
        return []

    def chunks(
        self, *, cancel: CancelToken | None = None, poll: Poll | None = None, metrics: StreamMetrics | None = None, loaded: bool = False,
    ) -> Generator[FrameChunk, None, None]:
        try:
            for index in range(self.meta.num_chunks):
                if cancel is not None:
                    cancel.check()
                span = self.meta.timeline.frames_of_chunk(index)
                numbers = np.arange(span.start, min(span.stop, self.meta.total_frames), dtype=np.uint8)
                self.pulled += 1
                frames = np.broadcast_to(numbers[:, None, None, None], (len(numbers), self.size, self.size, 3)).copy()
                yield FrameChunk(index=index, frames=frames, pts=span.start, time_base=1 / self.meta.fps)
        finally:
            self.closed += 1


def random_stream(loader: Any, seed: int) -> DecodedStream:
    """A real stream of random weights that are brought by `loader`."""
    torch.manual_seed(seed)
    model = replace(random_model(CONFIG), loader=loader)
    portrait = torch.rand(3, 64, 64)
    meta = StreamMeta(width=64, height=64, num_frames=9, timeline=Timeline(fps=Fraction(25)), audio_s=0.36)
    built = talk.BuiltScene(
        scene=Scene(reference=torch.zeros(16, 8, 8), speakers=(), frames=9, picture=portrait), image=portrait, meta=meta,
        sampler=model.config.sampler)
    return talk.decode_stream(talk.sample_stream(model, built, seed=seed))


def rendered(stream: ComposedStream) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in stream])


def test_a_layer_covers_its_box_and_nothing_else() -> None:
    stream = ComposedStream(CANVAS, [Layer(frames=Numbered(20), box=(10, 20, 26, 36))], meta_of(20))
    frames = rendered(stream)
    outside = np.ones((60, 90), bool)
    outside[20:36, 10:26] = False
    assert frames.shape == (20, 60, 90, 3) and (frames[:, outside] == CANVAS[outside]).all()
    assert all((frames[i, 20:36, 10:26] == i).all() for i in range(20))


def test_layers_have_times_rates_and_an_order() -> None:
    """One begins half a second late and runs at half the rate; it covers the other where both are, because it is higher."""
    low, high = Numbered(50), Numbered(10, fps=10)
    stream = ComposedStream(CANVAS, [
        Layer(frames=high, box=(8, 0, 24, 16), start_s=0.5, z=1), Layer(frames=low, box=(0, 0, 16, 16))], meta_of(60))
    frames = rendered(stream)
    assert [frames[i, 5, 3, 0] for i in (0, 10, 49, 55)] == [0, 10, 49, 49]
    assert [frames[i, 5, 12, 0] for i in (0, 12, 13, 16, 30, 59)] == [0, 0, 0, 1, 7, 9]


def test_a_layer_over_the_edge_is_cut_and_one_beside_it_is_refused() -> None:
    frames = rendered(ComposedStream(CANVAS, [Layer(frames=Numbered(2), box=(-8, -8, 8, 8))], meta_of(2)))
    assert (frames[1, :8, :8] == 1).all() and (frames[:, 8:] == CANVAS[8:]).all()
    with pytest.raises(InputError, match=r"lies outside the canvas of 90 x 60"):
        ComposedStream(CANVAS, [Layer(frames=Numbered(2), box=(100, 0, 116, 16))], meta_of(2))
    with pytest.raises(InputError, match="layers"):
        ComposedStream(CANVAS, [], meta_of(2))


def test_resampling_to_a_fractional_box_keeps_places() -> None:
    """A ramp stays where it was, to a fraction of a pixel."""
    ramp = np.tile((np.arange(80) * 3).astype(np.uint8)[None, :, None], (80, 1, 3))
    box = (7.3, 4.6, 47.3, 44.6)

    class Ramp(Numbered):
        def chunks(self, **_: object) -> Generator[FrameChunk, None, None]:  # type: ignore[override]
            yield FrameChunk(index=0, frames=ramp[None], pts=0, time_base=Fraction(1, 25))

    frame = rendered(ComposedStream(CANVAS, [Layer(frames=Ramp(1), box=box)], meta_of(1)))[0]
    x = np.arange(12, 42)
    assert np.abs(frame[20, 12:42, 0] - 3 * (((x + 0.5) - box[0]) * 2 - 0.5)).max() <= 1.5


def test_a_mask_of_zero_keeps_pixels_to_the_bit_and_fades_to_one() -> None:
    mask = soft_edge(64)
    assert mask.min() == 0 and mask[32, 32] == 1 and not mask[0].any() and not mask[:, -1].any()
    frames = rendered(ComposedStream(CANVAS, [Layer(frames=Numbered(3), box=(20, 10, 60, 50), mask=mask)], meta_of(3)))
    alpha = np.asarray(Image.fromarray(mask).resize((40, 40), Image.Resampling.BILINEAR))
    inside, cut = frames[1, 10:50, 20:60], CANVAS[10:50, 20:60]
    assert (inside[alpha == 0] == cut[alpha == 0]).all() and (inside[alpha == 1] == 1).all() and (alpha == 1).any()
    assert np.abs(inside - (cut + (1.0 - cut) * alpha[..., None])).max() <= 0.51


def test_a_side_on_the_canvas_border_does_not_fade() -> None:
    """Or the outermost pixels of a picture that moves as a whole would stand still."""
    assert inner_sides((0.0, 5.0, 90.0, 60.5), (90, 60)) == (False, True, False, False)
    mask = soft_edge(64, sides=(False, True, False, False))
    assert not mask[0].any() and (mask[8:] == 1).all() and (np.diff(mask[:8], axis=0) > 0).all()
    assert (soft_edge(64, sides=(False,) * 4) == 1).all()


def test_the_work_of_all_layers_is_added_up() -> None:
    class Working(Numbered):
        def chunks(self, **known: Any) -> Generator[FrameChunk, None, None]:
            for chunk in super().chunks(**known):
                known["metrics"].denoise_s, known["metrics"].decode_s = 1.0 * (chunk.index + 1), 0.5
                yield chunk

    boxes = (0, 0, 16, 16), (20, 0, 36, 16)
    stream = ComposedStream(CANVAS, [Layer(frames=Working(20), box=box) for box in boxes], meta_of(20))
    metrics = stream.new_metrics()
    count = len(list(stream.chunks(metrics=metrics)))
    report = metrics.report()
    assert count > 1 and (report["denoise_s"], report["decode_s"], report["frames"]) == (2.0 * count, 1.0, 20)


def test_the_canvas_gives_its_detail_back_where_nothing_moved() -> None:
    """A crop shrunk fourfold and put back unchanged is the canvas again; where the frame differs, the frame is shown."""
    still = np.asarray(Image.fromarray(CANVAS).crop((10, 0, 70, 60)).resize((15, 15), Image.Resampling.LANCZOS))

    class Held(Numbered):
        def chunks(self, **_: object) -> Generator[FrameChunk, None, None]:  # type: ignore[override]
            moved = np.stack([still, np.where(np.arange(15)[None, :, None] < 7, np.uint8(255) - still, still)])
            yield FrameChunk(index=0, frames=moved, pts=0, time_base=Fraction(1, 25))

    frames = rendered(ComposedStream(CANVAS, [Layer(frames=Held(2), box=(10, 0, 70, 60), still=still)], meta_of(2))).astype(int)
    assert np.abs(frames[0, :, 10:70] - CANVAS[:, 10:70]).max() <= 1
    turned = 255 - np.asarray(Image.fromarray(still).resize((60, 60), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(frames[1, 5:-5, 14:24] - turned[5:-5, 4:14]).mean() < 12 < np.abs(frames[1, 5:-5, 14:24] - CANVAS[5:-5, 14:24]).mean()


def test_two_faces_share_what_lies_between_them() -> None:
    boxes = [(0.0, 0.0, 60.0, 60.0), (30.0, 0.0, 90.0, 60.0)]
    left, right = apart(boxes, [np.ones((60, 60), np.float32)] * 2)
    assert np.allclose(left[:, 30:] + right[:, :30], 1, atol=1e-5) and left[30, 5] == 1 and left[30, 58] == 0 and right[30, 2] == 0
    assert np.array_equal(apart(boxes[:1], [left])[0], left)


def test_nothing_is_pulled_early_and_leaving_closes_every_layer() -> None:
    one, two = Numbered(100), Numbered(100)
    stream = ComposedStream(CANVAS, [Layer(frames=one, box=(0, 0, 16, 16)), Layer(frames=two, box=(20, 0, 36, 16))], meta_of(100))
    chunks = stream.chunks()
    next(chunks)
    assert one.pulled == two.pulled == 1
    chunks.close()
    assert one.closed == two.closed == 1
    assert len(rendered(stream)) == 100 and one.closed == 2


def test_a_cancel_reaches_the_layers() -> None:
    one, token = Numbered(100), CancelToken()
    chunks = ComposedStream(CANVAS, [Layer(frames=one, box=(0, 0, 16, 16))], meta_of(100)).chunks(cancel=token)
    next(chunks)
    token.cancel()
    with pytest.raises(Cancelled):
        list(chunks)
    assert one.closed == 1


class Loading:
    """A loader that writes down what is asked of it at the same time."""

    def __init__(self) -> None:
        self.calls: list[list[object]] = []

    def load(self, needs: Sequence[WeightNeeds]) -> None:
        self.calls.append([need.model.config for need in needs])


def test_all_layers_are_loaded_at_once_before_any_runs() -> None:
    """One after the other, the second model's weights may put out the first's, or its patches be on for both."""
    loader = Loading()
    streams = [random_stream(loader, seed) for seed in (0, 1)]
    layers = [Layer(frames=stream, box=(0, 0, 16, 16)) for stream in streams]
    inner = ComposedStream(CANVAS, layers[:1], meta_of(9))
    outer = ComposedStream(CANVAS, [Layer(frames=inner, box=(0, 0, 90, 60)), layers[1]], meta_of(9))
    chunks = outer.chunks()
    assert [len(call) for call in loader.calls] == [2]
    next(chunks)
    chunks.close()
    assert [len(call) for call in loader.calls] == [2]


def test_layers_stop_together() -> None:
    """Each step takes its time to notice; layers that are stopped one after the other take that time once for each."""
    class Slow(Numbered):
        def chunks(self, **given: Any) -> Generator[FrameChunk, None, None]:
            def produce(token: CancelToken) -> Generator[LatentChunk, None, None]:
                for index in range(100):
                    time.sleep(0.4)  # a denoising step: nobody can stop it half way
                    token.check()
                    yield LatentChunk(index=index, latents=torch.zeros(1))

            def decode(chunk: LatentChunk) -> FrameChunk:
                black = np.zeros((12, 16, 16, 3), np.uint8)
                return FrameChunk(index=chunk.index, frames=black, pts=12 * chunk.index, time_base=Fraction(1, 25))

            cpu = WorkerConfig(device=torch.device("cpu"))
            yield from run_pipeline(produce, decode, denoise_on=cpu, decode_on=cpu, queue_depth=8, cancel=given["cancel"])

    stream = ComposedStream(CANVAS, [Layer(frames=Slow(1000), box=(0, 0, 16, 16)) for _ in range(6)], meta_of(1000)).chunks()
    next(stream)
    time.sleep(0.1)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1.0  # six times 0.3 s one after the other
