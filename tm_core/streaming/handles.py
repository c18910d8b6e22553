"""What travels along the wires of a graph: lazy, re-iterable streams of latents and of frames.

Nothing is computed until a sink pulls. Sampled chunks go to disk (spool), so a second sink,
or the same one again, reads them instead of sampling; memory does not grow with the length of the stream.
Non-goals: what a chunk is made of (sampler), threads (pipeline). Shapes: F latents, T frames, C latent
channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..model.talking import WeightNeeds, load_weights
from ..timeline import Timeline
from ..vae.base import StreamingVAE
from ..vae.rendering import FaceRenderer, FaceView
from ..vae.tiny import TinyVAE
from .cancel import CancelToken
from .colour_correction import ColourCorrection
from .mailbox import WAIT_S
from .metrics import StreamMetrics
from .pipeline import FrameChunk, Poll, run_pipeline
from .sampler import LatentChunk
from .shared_decode import SharedDecode
from .spool import LatentSpool
from .workers import WorkerConfig, to_uint8, to_worker

EASE = 5  # latents over which a face that begins to speak, or ends, becomes more or less lively


@dataclass(frozen=True, kw_only=True)
class StreamMeta:
    """What a sink must know before the first chunk; `audio` is the sound the stream belongs to.

    `warnings` say why it may not look well. `num_frames` and `audio_s` are None while the sound is still arriving: then a stream
    is as long as the sound turns out.
    """

    width: int
    height: int
    num_frames: int | None
    timeline: Timeline
    audio_s: float | None
    audio: Any = None  # what media.VideoWriter takes: the path of the source or a waveform
    warnings: tuple[str, ...] = ()

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return self.timeline.fps

    @property
    def total_frames(self) -> int:
        """Frames of the whole stream; InputError while nobody knows."""
        if self.num_frames is None:
            raise InputError("stream", "a sound that is still arriving", "has no length yet", "end the sound first")
        return self.num_frames

    @property
    def num_chunks(self) -> int:
        """Chunks of the whole stream."""
        return self.timeline.num_chunks(self.total_frames)

    @property
    def duration_s(self) -> float:
        """Duration of the video."""
        return float(self.total_frames / self.fps)

    @property
    def chunk_s(self) -> float:
        """Duration of a chunk other than the first and the last."""
        return float(len(self.timeline.frames_of_chunk(1)) / self.fps)

    @property
    def collected_bytes(self) -> int:
        """Memory that all frames take as float32 images (what collecting them needs)."""
        return self.total_frames * self.height * self.width * 3 * 4


@dataclass(frozen=True, kw_only=True)
class DecoderInput:
    """What turns these latents into pictures: the autoencoder they belong to and the portrait (3, H, W) in 0..1.

    `motion_frames`: of clips that are decoded each on its own, the first frames of all but the first clip, which the
    clip before has shown already. None: one decoder runs through the stream. `shared`: what the sampler decoded of a clip
    with the same autoencoder. `colour_correction`: how far shown frames' colours are moved to the portrait's, 0..1.
    `view`: the picture on which the motion that the autoencoder decodes is drawn; None: its own frames are shown.
    `speaking` says of latents whether their voice speaks, (F,) bool: a face lives more then.
    """

    vae: StreamingVAE
    reference: Tensor
    motion_frames: int | None = None
    shared: SharedDecode | None = None
    colour_correction: float = 0.0
    view: FaceView | None = None
    speaking: Callable[[range], Tensor] | None = None


class ChunkSource(Protocol):
    """What a LatentStream samples from; the state is a value it keeps."""

    def open(self) -> Any:
        """State before chunk 0."""
        ...

    def step(self, state: Any, cancel: CancelToken) -> tuple[LatentChunk, Any]:
        """The next chunk and the state after it."""
        ...


class SoundArrival(Protocol):
    """How far the sound of a stream has arrived."""

    @property
    def num_frames(self) -> int | None:
        """Frames of the whole stream, None while the sound has no end."""

    def wait(self, latents: range, cancel: CancelToken) -> None:
        """Returns once everything is there that these latents are sampled from, or the sound has ended; raises Cancelled."""


class LatentStream:
    """Sampled latents, chunk by chunk; iterate it as often as you like, from as many threads.

    Whoever needs a chunk that nobody has sampled yet samples it, one sink at a time, and everyone reads it. A sink that is
    cancelled or fails leaves what is complete behind; the next one goes on from there. The sampler's state, on a GPU gigabytes
    of keys, goes with the last sink that is cancelled or fails: then the next one samples again, unseen, up to that point.
    """

    def __init__(
        self, source: ChunkSource, meta: StreamMeta, decoder: DecoderInput | None = None, *,
        device: torch.device | None = None, needs: Callable[[StreamingVAE], WeightNeeds] | None = None, arrival: SoundArrival | None = None,
    ) -> None:
        """`device`: where the source computes (the CPU). `needs`: which weights must be in place while it is decoded by an autoencoder.

        `arrival` where the sound is not all there yet.
        """
        self.meta = meta
        self.decoder = decoder
        self.device = device or torch.device("cpu")
        self._needs, self._arrival = needs, arrival
        self._source = source
        self._spool = LatentSpool()
        self._state: Any = None
        self._next = 0  # chunk the state would sample
        self._busy = False
        self._sinks = 0
        self._released = 0  # how often what was kept has been given back
        self._changed = threading.Condition()
        self.sampled = 0  # chunks computed so far, repeats included

    def __iter__(self) -> Iterator[LatentChunk]:
        return self.chunks()

    @property
    def available(self) -> int:
        """Chunks that are sampled and kept."""
        with self._changed:
            return self._spool.count

    @property
    def holds_state(self) -> bool:
        """Whether the sampler's caches are in memory."""
        return self._state is not None

    @property
    def num_frames(self) -> int | None:
        """Frames of the whole stream, None while nobody knows."""
        return self.meta.num_frames if self._arrival is None else self._arrival.num_frames

    def needs(self, autoencoder: StreamingVAE) -> list[WeightNeeds]:
        """Weights that must be where they compute while `autoencoder` decodes this stream; no transformer where all is sampled."""
        if self._needs is None:
            return []
        need = self._needs(autoencoder)
        with self._changed:
            return [replace(need, transformer=False, reserve=0) if self._complete() else need]

    def chunks(self, cancel: CancelToken | None = None) -> Generator[LatentChunk, None, None]:
        """All chunks from the first; raises Cancelled within one denoising step of `cancel`."""
        token, index = cancel or CancelToken(), 0
        with self._sink(token):
            while self._goes_on(index, token):
                token.check()
                yield self._chunk(index, token)
                index += 1

    def release(self) -> None:
        """Give back the disk space and the sampler's memory; a later iteration samples anew.

        Does not wait: a step that is under way gives its memory back when it ends.
        """
        with self._changed:
            self._spool.clear()
            self.release_state()

    def release_state(self) -> None:
        """Give back the sampler's memory alone; what is sampled stays. Does not wait either."""
        with self._changed:
            self._released += 1
            if not self._busy:
                self._drop_state()

    @contextmanager
    def _sink(self, token: CancelToken) -> Iterator[None]:
        """One who pulls. The last to leave cancelled or by an error takes the state along, one that merely stops pulling does not."""
        with self._changed:
            self._sinks += 1
        failed = True
        try:
            yield
            failed = False
        except GeneratorExit:
            failed = token.cancelled
            raise
        finally:
            with self._changed:
                self._sinks -= 1
                if failed and not self._sinks:
                    self.release_state()

    def _goes_on(self, index: int, cancel: CancelToken) -> bool:
        """Whether there is a chunk `index`; with a sound that is still arriving, once that is known."""
        latents = self.meta.timeline.latents_of_chunk(index)
        if self._arrival is not None and index >= self.available:
            self._arrival.wait(latents, cancel)
        count = self.num_frames
        return count is None or index < self.meta.timeline.num_chunks(count)

    def _chunk(self, index: int, cancel: CancelToken) -> LatentChunk:
        with self._changed:
            while index >= self._spool.count and self._busy:
                self._changed.wait(WAIT_S)
                cancel.check()
            if index < self._spool.count:
                return LatentChunk(index=index, latents=self._spool.read(index))
            self._busy = True
            released = self._released
        try:
            return self._sample(index, cancel)
        finally:
            with self._changed:
                self._busy = False
                if released != self._released:
                    self._drop_state()
                self._changed.notify_all()

    def _sample(self, index: int, cancel: CancelToken) -> LatentChunk:
        """Chunk `index` from the sampler; what is new on the way to it goes into the spool."""
        if self._next > self._spool.count:
            self._drop_state()  # the chunk before this one never reached the disk
        while True:
            chunk = self._step(cancel)
            with self._changed:
                if chunk.index == self._spool.count:
                    self._spool.append(chunk.latents)
                if self._complete():
                    self._drop_state()
            if chunk.index == index:
                return chunk

    def _complete(self) -> bool:
        count = self.num_frames
        return count is not None and self._spool.count == self.meta.timeline.num_chunks(count)

    def _step(self, cancel: CancelToken) -> LatentChunk:
        try:
            if self._state is None:
                self._state, self._next = self._source.open(), 0
            chunk, self._state = self._source.step(self._state, cancel)
        except BaseException:
            self._drop_state()  # its caches may hold half a chunk
            raise
        self._next += 1
        self.sampled += 1
        return chunk

    def _drop_state(self) -> None:
        self._state, self._next = None, 0


class DecodedStream:
    """Decoded frames, chunk by chunk, trimmed to the length of the sound; decodes anew at every iteration."""

    def __init__(
        self, latents: LatentStream, decoder: DecoderInput, *, denoise_on: WorkerConfig, decode_on: WorkerConfig,
        queue_depth: int = 2,
    ) -> None:
        """`decoder.reference` has the dtype and the device of the autoencoder that decodes.

        A stream without a view shows the autoencoder's own frames, at its size.
        """
        if queue_depth < 1:
            raise InputError("queue_depth", queue_depth, "at least one chunk must fit", "use 2")
        self.latents = latents
        self.decoder = decoder
        self.denoise_on, self.decode_on = denoise_on, decode_on
        self._queue_depth = queue_depth

    def __iter__(self) -> Iterator[FrameChunk]:
        return self.chunks()

    @property
    def meta(self) -> StreamMeta:
        """Size, rate, length and sound of the video."""
        if (view := self.decoder.view) is None:
            return self.latents.meta
        return replace(self.latents.meta, width=view.picture.shape[1], height=view.picture.shape[0])

    @property
    def view(self) -> FaceView | None:
        """What its face is drawn on."""
        return self.decoder.view

    def on(self, decoder: DecoderInput) -> DecodedStream:
        """The same latents decoded otherwise, by the same workers."""
        return DecodedStream(
            self.latents, decoder, denoise_on=self.denoise_on, decode_on=self.decode_on, queue_depth=self._queue_depth)

    def new_metrics(self, started: float | None = None) -> StreamMetrics:
        """Metrics to hand to `chunks`; time counts from `started` (time.monotonic), or from now."""
        return StreamMetrics(chunk_s=self.meta.chunk_s, fps=float(self.meta.fps), started=started)

    def needs(self) -> list[WeightNeeds]:
        """Weights that must be where they compute while this runs."""
        return self.latents.needs(self.decoder.vae)

    def chunks(
        self, *, cancel: CancelToken | None = None, poll: Poll | None = None, metrics: StreamMetrics | None = None, loaded: bool = False,
    ) -> Generator[FrameChunk, None, None]:
        """All chunks from the first; see `run_pipeline` for cancel, poll and errors. `loaded`: what it needs is in place already."""
        if not loaded:
            load_weights(self.needs())
        decode = _ChunkDecoder(self.latents, self.decoder)
        return run_pipeline(
            self.latents.chunks, decode, denoise_on=self.denoise_on, decode_on=self.decode_on, queue_depth=self._queue_depth,
            cancel=cancel, poll=poll, metrics=metrics, prepare=decode.prepare,
        )


def eased(flags: np.ndarray, frames: int, stride: int) -> np.ndarray:
    """(T,) how much is said in the frames of a chunk, 0..1, from the flags (EASE + F,) of its latents and of those before it."""
    means = np.convolve(flags, np.ones(EASE) / EASE, "valid")  # of the latent before the chunk, and of its own
    return np.asarray(np.interp((np.arange(frames) + 0.5) / stride, np.arange(len(means)), means))


class _ChunkDecoder:
    """One run of the decoder: holds its state, drops what was shown before, trims the last chunk, corrects its colours, draws."""

    def __init__(self, latents: LatentStream, decoder: DecoderInput) -> None:
        self._latents, self._vae, self._reference, self._motion = latents, decoder.vae, decoder.reference, decoder.motion_frames
        strength = decoder.colour_correction
        self._correct = ColourCorrection(decoder.reference, strength) if strength else None
        self._shared, self._speaking = decoder.shared, decoder.speaking
        self._view = decoder.view
        self._renderer: FaceRenderer | None = None
        self._state: Any = None

    def __call__(self, chunk: LatentChunk) -> FrameChunk:
        meta = self._latents.meta
        first, count = meta.timeline.frames_of_chunk(chunk.index).start, self._latents.num_frames
        shown = self._shown(chunk, first, None if count is None else count - first)
        return FrameChunk(index=chunk.index, frames=shown, pts=first, time_base=1 / meta.fps)

    def _shown(self, chunk: LatentChunk, first: int, most: int | None) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 from number `first` on, `most` of them."""
        if self._view is not None:
            return self._rendered(chunk, first)[:most]
        frames = self._decoded(chunk)
        if self._motion and chunk.index:
            frames = frames[self._motion :]
        kept = frames[:most]
        return to_uint8(kept if self._correct is None else self._correct(kept))

    def prepare(self) -> None:
        """Make what does not depend on latents."""
        if self._view is not None and self._renderer is None:
            self._renderer = FaceRenderer(cast(TinyVAE, self._vae), self._view, self._reference)
            self._state = self._renderer.open()

    def _rendered(self, chunk: LatentChunk, first: int) -> np.ndarray:
        self.prepare()
        assert self._renderer is not None
        here = to_worker(chunk.latents, self._reference.device, self._reference.dtype, chunk.made)
        frames, self._state = self._renderer(here, self._state, first, self._said(chunk.index))
        return frames

    def _said(self, index: int) -> np.ndarray | None:
        """(T,) how much is said in the frames of a chunk, 0..1: a mean over what is just past, so that no motion begins at once."""
        if self._speaking is None:
            return None
        timeline = self._latents.meta.timeline
        latents = timeline.latents_of_chunk(index)
        begin = max(0, latents.start - EASE)
        flags = self._speaking(range(begin, latents.stop)).numpy().astype(np.float64)
        flags = np.concatenate([np.full(EASE - (latents.start - begin), flags[0]), flags])
        return eased(flags, len(timeline.frames_of_chunk(index)), timeline.stride)

    def _decoded(self, chunk: LatentChunk) -> Tensor:
        if self._shared is not None and self._shared.vae is self._vae:
            return self._shared.shown(chunk.latents, self._reference, chunk.made)
        if self._state is None or self._motion is not None:
            self._state = self._vae.open_decoder(self._reference)
        here = to_worker(chunk.latents, self._reference.device, self._reference.dtype, chunk.made)
        frames, self._state = self._vae.decode(here, self._state)
        return frames
