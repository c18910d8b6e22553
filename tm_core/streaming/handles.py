"""What travels along the wires of a graph: lazy, re-iterable streams of latents and of frames.

Nothing is computed until a sink pulls. Sampled chunks go to an unnamed temporary file, so a second sink,
or the same one again, reads them instead of sampling; memory does not grow with the length of the stream.
Non-goals: what a chunk is made of (sampler), threads (pipeline). Shapes: F latents, T frames, C latent
channels.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..timeline import Timeline
from ..vae.base import StreamingVAE
from .cancel import CancelToken
from .colour import ColourCorrection
from .mailbox import WAIT_S
from .metrics import StreamMetrics
from .pipeline import FrameChunk, Poll, WorkerConfig, run_pipeline, to_host, to_uint8, to_worker
from .sampler import LatentChunk
from .shared import SharedDecode


@dataclass(frozen=True, kw_only=True)
class StreamMeta:
    """What a sink must know before the first chunk; `audio` is the sound the stream belongs to."""

    width: int
    height: int
    num_frames: int
    timeline: Timeline
    audio_s: float
    audio: Any = None  # what media.VideoWriter takes: the path of the source or a waveform

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return self.timeline.fps

    @property
    def num_chunks(self) -> int:
        """Chunks of the whole stream."""
        return self.timeline.num_chunks(self.num_frames)

    @property
    def duration_s(self) -> float:
        """Duration of the video."""
        return float(self.num_frames / self.fps)

    @property
    def chunk_s(self) -> float:
        """Duration of a chunk other than the first and the last."""
        return float(len(self.timeline.frames_of_chunk(1)) / self.fps)

    @property
    def collected_bytes(self) -> int:
        """Memory that all frames take as float32 images (what collecting them needs)."""
        return self.num_frames * self.height * self.width * 3 * 4


@dataclass(frozen=True, kw_only=True)
class DecoderInput:
    """What turns these latents into pictures: the autoencoder they belong to and the portrait (3, H, W) in 0..1.

    `motion_frames`: of clips that are decoded each on its own, the first frames of all but the first clip, which the
    clip before has shown already. None: one decoder runs through the stream. `shared`: what the sampler decoded of a clip
    with the same autoencoder. `colour_correction`: how far shown frames' colours are moved to the portrait's, 0..1.
    """

    vae: StreamingVAE
    reference: Tensor
    motion_frames: int | None = None
    shared: SharedDecode | None = None
    colour_correction: float = 0.0
    finish: Callable[[np.ndarray, int], np.ndarray] | None = None  # last touch to frames (T, H, W, 3) uint8 from a number on


class ChunkSource(Protocol):
    """What a LatentStream samples from; the state is a value it keeps."""

    def open(self) -> Any:
        """State before chunk 0."""
        ...

    def step(self, state: Any, cancel: CancelToken) -> tuple[LatentChunk, Any]:
        """The next chunk and the state after it."""
        ...


class _Spool:
    """Chunks on disk in a file without a name: it goes when the object does, or the process."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._kept: list[tuple[int, tuple[int, ...], torch.dtype]] = []  # where, shape, type: the first chunk may be another length
        self._end = 0

    @property
    def count(self) -> int:
        """Chunks kept."""
        return len(self._kept)

    def append(self, latents: Tensor) -> None:
        """Add the next chunk (1, C, F, h, w); InputError when the disk is full."""
        raw = to_host(latents).contiguous()
        data = raw.reshape(-1).view(torch.uint8).numpy().tobytes()
        try:
            if self._file is None:
                self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="tm-latents-", buffering=0))
            self._file.seek(self._end)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            raise InputError(
                "temporary folder", tempfile.gettempdir(), f"cannot hold the sampled stream ({error.strerror or error})",
                "free some space or point TMPDIR to a disk that has it",
            ) from error
        self._kept.append((self._end, tuple(raw.shape), raw.dtype))
        self._end += len(data)

    def read(self, index: int) -> Tensor:
        """Chunk `index` again."""
        assert self._file is not None and index < self.count
        start, shape, dtype = self._kept[index]
        size = int(np.prod(shape)) * dtype.itemsize
        self._file.seek(start)
        data = bytearray()
        while len(data) < size:
            part = self._file.read(size - len(data))
            if not part:
                raise OSError("the spooled stream ended early")
            data += part
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def clear(self) -> None:
        """Forget every chunk and give the disk space back."""
        if self._file is not None:
            self._file.close()
        self._file, self._end = None, 0
        self._kept.clear()


def _stay(autoencoder: StreamingVAE) -> None:
    """Weights that need not be brought anywhere."""


class LatentStream:
    """Sampled latents, chunk by chunk; iterate it as often as you like, from as many threads.

    Whoever needs a chunk that nobody has sampled yet samples it, one sink at a time, and everyone reads it.
    A sink that is cancelled or fails leaves what is complete behind; the next one goes on from there (by
    sampling again up to that point, unseen, if the sampler's state was lost in the middle of a step).
    """

    def __init__(
        self, source: ChunkSource, meta: StreamMeta, decoder: DecoderInput | None = None,
        ready: Callable[[StreamingVAE], None] | None = None,
    ) -> None:
        """`ready` brings weights to where they compute, those of the autoencoder that will decode as well (TalkingModel)."""
        self.meta = meta
        self.decoder = decoder
        self.ready = ready or _stay
        self._source = source
        self._spool = _Spool()
        self._state: Any = None
        self._next = 0  # chunk the state would sample
        self._busy = False
        self._changed = threading.Condition()
        self.sampled = 0  # chunks computed so far, repeats included

    def __iter__(self) -> Iterator[LatentChunk]:
        return self.chunks()

    @property
    def available(self) -> int:
        """Chunks that are sampled and kept."""
        with self._changed:
            return self._spool.count

    def chunks(self, cancel: CancelToken | None = None) -> Iterator[LatentChunk]:
        """All chunks from the first; raises Cancelled within one denoising step of `cancel`."""
        token = cancel or CancelToken()
        for index in range(self.meta.num_chunks):
            token.check()
            yield self._chunk(index, token)

    def release(self) -> None:
        """Give back the disk space and the sampler's memory; a later iteration samples anew."""
        with self._changed:
            while self._busy:
                self._changed.wait()
            self._spool.clear()
            self._drop_state()

    def _chunk(self, index: int, cancel: CancelToken) -> LatentChunk:
        with self._changed:
            while index >= self._spool.count and self._busy:
                self._changed.wait(WAIT_S)
                cancel.check()
            if index < self._spool.count:
                return LatentChunk(index=index, latents=self._spool.read(index))
            self._busy = True
        try:
            return self._sample(index, cancel)
        finally:
            with self._changed:
                self._busy = False
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
                if self._spool.count == self.meta.num_chunks:
                    self._drop_state()
            if chunk.index == index:
                return chunk

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


class FrameStream:
    """Decoded frames, chunk by chunk, trimmed to the length of the sound; decodes anew at every iteration."""

    def __init__(
        self, latents: LatentStream, decoder: DecoderInput, *, denoise_on: WorkerConfig, decode_on: WorkerConfig,
        queue_depth: int = 2,
    ) -> None:
        """`decoder.reference` has the dtype and the device of the autoencoder that decodes."""
        if queue_depth < 1:
            raise InputError("queue_depth", queue_depth, "at least one chunk must fit", "use 2")
        self.latents = latents
        self._decoder = decoder
        self._denoise_on, self._decode_on = denoise_on, decode_on
        self._queue_depth = queue_depth

    def __iter__(self) -> Iterator[FrameChunk]:
        return self.chunks()

    @property
    def meta(self) -> StreamMeta:
        """Size, rate, length and sound of the video."""
        return self.latents.meta

    def new_metrics(self, started: float | None = None) -> StreamMetrics:
        """Metrics to hand to `chunks`; time counts from `started` (time.monotonic), or from now."""
        return StreamMetrics(chunk_s=self.meta.chunk_s, fps=float(self.meta.fps), started=started)

    def chunks(
        self, *, cancel: CancelToken | None = None, poll: Poll | None = None, metrics: StreamMetrics | None = None,
    ) -> Generator[FrameChunk, None, None]:
        """All chunks from the first; see `run_pipeline` for cancel, poll and errors."""
        self.latents.ready(self._decoder.vae)
        return run_pipeline(
            self.latents.chunks, _ChunkDecoder(self.meta, self._decoder),
            denoise_on=self._denoise_on, decode_on=self._decode_on, queue_depth=self._queue_depth,
            cancel=cancel, poll=poll, metrics=metrics,
        )


class _ChunkDecoder:
    """One run of the decoder: holds its state, drops what was shown before, trims the last chunk and corrects its colours."""

    def __init__(self, meta: StreamMeta, decoder: DecoderInput) -> None:
        self._meta, self._vae, self._reference, self._motion = meta, decoder.vae, decoder.reference, decoder.motion_frames
        strength = decoder.colour_correction
        self._correct = ColourCorrection(decoder.reference, strength) if strength else None
        self._finish, self._shared = decoder.finish, decoder.shared
        self._state: Any = None

    def __call__(self, chunk: LatentChunk) -> FrameChunk:
        frames = self._decoded(chunk.latents)
        if self._motion and chunk.index:
            frames = frames[self._motion :]
        first = self._meta.timeline.frames_of_chunk(chunk.index).start
        kept = frames[: self._meta.num_frames - first]
        shown = to_uint8(kept if self._correct is None else self._correct(kept))
        shown = shown if self._finish is None else self._finish(shown, first)
        return FrameChunk(index=chunk.index, frames=shown, pts=first, time_base=1 / self._meta.fps)

    def _decoded(self, latents: Tensor) -> Tensor:
        if self._shared is not None and self._shared.vae is self._vae:
            return self._shared.shown(latents, self._reference)
        if self._state is None or self._motion is not None:
            self._state = self._vae.open_decoder(self._reference)
        here = to_worker(latents, self._reference.device, self._reference.dtype)
        frames, self._state = self._vae.decode(here, self._state)
        return frames
