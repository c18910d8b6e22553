"""LiveAvatar: a portrait that speaks what is pushed to it, listens otherwise, and can be interrupted. Paper section 5.

What comes out is pairs, one video frame and exactly its samples, so sound and lips cannot part however long it runs. Chunks are made a
little ahead of what is handed out; the sampler's state at the last few boundaries is kept. So when somebody begins to speak, or is
interrupted, what was made ahead is dropped and the stream goes on from the boundary that is shown next, without a jump.

No network, no clock of its own: whoever takes pairs at the frame rate paces it (pacing). Non-goals: what is said (agents), who listens
(server). Shapes: T frames, H x W the picture, n samples, F latents, W rows of a window, M mel bands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import Cancelled, InputError
from ..face.eyes import eyes_covered
from ..face.life import FaceLife
from ..face.mask import token_mask
from ..families.settings import Choices, settings
from ..inputs import VideoFraming
from ..model.talking import TalkingModel
from ..streaming.cancel import CancelToken
from ..streaming.handles import EASE, eased
from ..streaming.pipeline import FrameChunk, run_pipeline
from ..streaming.sampler import ChunkedSampler, LatentChunk, SamplerState, Scene, SpeakerInput
from ..streaming.workers import WorkerConfig
from ..talk.framing import framed, view_of
from ..talk.portrait import Portrait
from ..talk.scene import encode_picture
from ..talk.stream import share_cpu
from ..talk.voice import timeline_of
from ..vae.base import device_of, dtype_of
from ..vae.tiny import TinyVAE
from .boundary_decoder import BoundaryDecoder, mean_of
from .past_sound import PastSound
from .speech_queue import Floats, SpeechQueue, SpokenSound

log = logging.getLogger(__name__)

AvatarState = Literal["listening", "speaking", "waiting", "closed"]
TRANSITIONS: dict[AvatarState, tuple[AvatarState, ...]] = {
    "listening": ("speaking", "closed"),
    "speaking": ("waiting", "listening", "closed"),  # waiting: speech that has not ended is late
    "waiting": ("speaking", "listening", "closed"),
    "closed": (),
}
LOOK_AHEAD = 2  # latents of the sound that a chunk sees beyond itself, where they are there already
PATIENCE_S = 0.24  # that late speech is waited for before the face listens again
# after a frame that was not ready in time every second one is made only, so long at least, and until work takes so little of its time
SLOW_S, ROOM = 15.0, 0.7
FADE_S = 0.01  # within which an interrupted sound ends


@dataclass(frozen=True, kw_only=True)
class AvatarOptions:
    """What of a live stream is the caller's to choose; `ahead_s`: how much is made before it is shown."""

    framing: VideoFraming = "face"
    size: int | None = 512
    sample_rate: int = 48000
    seed: int = 0
    chunk_latents: int = 1
    look_ahead: int = LOOK_AHEAD
    ahead_s: float = 0.48
    steps: int | None = 1  # a second one costs as much as the first and changes little (`bench table1`); None: the model's own number
    blinks: bool = True


@dataclass(frozen=True, kw_only=True)
class LivePair:
    """A frame (H, W, 3) uint8 and its samples (n,) in -1..1; the n-th pair of a stream is shown at n / fps.

    `answer`: the number of the answer it belongs to, None while listening; `position_s`: where in it the samples end.
    `spoken`: how many of the samples are the answer's; silence after its end. `held`: the frame before once more, because none was ready.
    `epoch`: interruptions so far.
    """

    frame: NDArray[np.uint8]
    samples: Floats
    pts: int
    epoch: int
    answer: int | None = None
    position_s: float = 0.0
    spoken: int = 0
    held: bool = False


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What an interrupted answer came to: how much of it was handed out; no answer where none was under way.

    `heard_s`: how much was handed out of all that was pushed since the last interruption, whatever answers it was.
    """

    answer: int | None
    position_s: float
    heard_s: float = 0.0


@dataclass(kw_only=True)
class LiveCounts:
    """What a session has come to so far, for whoever watches it."""

    pairs: int = 0
    held: int = 0  # pairs without a new frame
    dropped: int = 0  # chunks that were made and not wanted any more
    chunks: int = 0
    chunk_s: float = 0.0  # time from the decision on a chunk to its frames, of late


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A chunk on its way: its place in the model's time, and its sound."""

    index: int
    generation: int
    answer: int | None
    sound: SpokenSound | None  # None: silence


class LiveAvatar:
    """One session of one portrait; sessions share the model's weights and nothing else. Use it as a context manager."""

    def __init__(self, model: TalkingModel, portrait: Portrait, options: AvatarOptions | None = None) -> None:
        """Nothing runs before `start`. InputError for models that do not stream chunk by chunk."""
        self.options = options = options or AvatarOptions()
        cfg = settings(model.config, Choices(steps=options.steps))
        if cfg.clip is not None or cfg.history is not None or model.config.framing != "face":
            raise InputError("model", model.config.name, "does not stream in chunks that depend on the last one alone", "use tiny")
        cfg = replace(cfg, chunk_latents=options.chunk_latents)
        self._model, self._timeline = model, timeline_of(model.config, cfg)
        self.fps: Fraction = self._timeline.fps
        self.queue = SpeechQueue(rate=options.sample_rate, model_rate=model.config.audio.sample_rate, fps=self.fps)
        self._frame_samples = int(options.sample_rate / self.fps)
        view = framed(view_of(portrait), options.framing, options.size)
        eyes = options.blinks and not eyes_covered(portrait.crop.image, portrait.crop.landmarks)
        self._view = replace(view, life=FaceLife(fps=self.fps, seed=options.seed, eyes=eyes))
        self._sampler = ChunkedSampler(model, cfg)
        self._reference = portrait.image.to(device_of(model.vae), dtype_of(model.vae))
        self._decoder = BoundaryDecoder(cast(TinyVAE, model.vae), self._view, self._reference)
        speaker = SpeakerInput(
            windows=self._windows, speaking=self._speaking, mask=torch.from_numpy(token_mask(portrait.mask, model.config.token_hw)))
        self._scene = Scene(reference=encode_picture(model, portrait.image, cfg), speakers=(speaker,), picture=portrait.image)
        # all below is guarded by the condition
        self._changed = threading.Condition()
        self._state: AvatarState = "listening"
        self._error: BaseException | None = None
        self._planned: dict[int, _Planned] = {}  # by serial number
        self._serial = self._generation = 0
        self._cuts: deque[tuple[int, int]] = deque(maxlen=64)  # generation, and the first chunk that is made anew in it
        self._next = 0  # index of the chunk that is planned next
        self._ready: deque[tuple[_Planned, NDArray[np.uint8], int]] = deque()  # chunk, its frames, how many of them were handed out
        self._handed = 0  # frames of the model's time that were handed out
        self._flags: dict[int, bool] = {}  # by latent
        self._past = PastSound.none(model.config.audio, self._timeline)
        self._starved_at: float | None = None
        self._answer = 0
        self._playing: tuple[int | None, float] = (None, 0.0)
        self._heard = 0  # samples handed out since the last interruption
        self._pts = self._epoch = 0
        self._step_s = 0.1
        self._behind_at, self._every = 0.0, 1
        self._stepping: _Planned | None = None
        self._shown: NDArray[np.uint8] = self._view.picture
        self._step_token = CancelToken()
        self._token = CancelToken()
        self._thread: threading.Thread | None = None
        self.counts = LiveCounts()

    # -- whoever speaks ---------------------------------------------------------------------------------

    def push_audio(self, samples: Floats, rate: int) -> None:
        """The next samples (n,) in -1..1 of the answer under way, or of a new one; InputError as for SpeechQueue."""
        with self._changed:
            self._check_open()
            self.queue.push(samples, rate)
            self._begin_answer()
            self._changed.notify_all()

    def end_of_speech(self) -> None:
        """The answer is complete; the face listens after it."""
        with self._changed:
            self.queue.end()
            self._begin_answer()
            self._changed.notify_all()

    def interrupt(self) -> Interruption:
        """Stop speaking at once: nothing of the answer is handed out any more, the mouth closes from what is shown."""
        with self._changed:
            answer, position = self._playing
            heard_s, self._heard = self._heard / self.options.sample_rate, 0
            self.queue.clear()
            self._starved_at = None
            self._epoch += 1
            spoken = [p for p, _, _ in self._ready if p.answer is not None] or [
                p for p in self._planned.values() if p.answer is not None and not self._is_stale(p)]
            if spoken or answer is not None:
                self._cut(self._chunk_at(self._handed))
                self._playing = (None, 0.0)
                self._ready = deque((self._faded(p, n), f, n) for p, f, n in self._ready)
                self._move("listening")
            self._changed.notify_all()
            return Interruption(answer=answer, position_s=position, heard_s=heard_s)

    # -- whoever shows it -------------------------------------------------------------------------------

    @property
    def state(self) -> AvatarState:
        """What the session is doing."""
        with self._changed:
            return self._state

    @property
    def error(self) -> BaseException | None:
        """What the session failed of."""
        with self._changed:
            return self._error

    @property
    def epoch(self) -> int:
        """Interruptions so far."""
        with self._changed:
            return self._epoch

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        height, width = self._view.picture.shape[:2]
        return width, height

    @property
    def lead_s(self) -> float:
        """Seconds of frames that are ready and not handed out."""
        with self._changed:
            return sum(len(f) - n for _, f, n in self._ready) / float(self.fps)

    def take(self) -> LivePair:
        """The next pair, at once: where no frame is ready the last one once more, in silence. Raises what the session failed of."""
        with self._changed:
            self._check_open()
            pts, self._pts = self._pts, self._pts + 1
            self.counts.pairs += 1
            if not self._ready:
                self.counts.held += 1
                self._behind_at, self._every = time.monotonic(), 2
                return LivePair(frame=self._shown, samples=self._silence(), pts=pts, epoch=self._epoch, held=True)
            planned, frames, count = self._ready.popleft()
            self._shown = frames[count]
            self._handed += 1
            samples, position, spoken = self._silence(), 0.0, 0
            if planned.sound is not None:
                begin = count * self._frame_samples
                samples = planned.sound.heard[begin : begin + self._frame_samples]
                position = planned.sound.position_s + (count + 1) / float(self.fps)
                spoken = len(samples[: max(0, planned.sound.length - begin)])
                self._heard += spoken
            self._playing = planned.answer, position
            if count + 1 < len(frames):
                self._ready.appendleft((planned, frames, count + 1))
            self._changed.notify_all()
            return LivePair(
                frame=self._shown, samples=samples, pts=pts, epoch=self._epoch, answer=planned.answer, position_s=position, spoken=spoken)

    def _faded(self, planned: _Planned, count: int) -> _Planned:
        """What is still shown of an interrupted chunk from frame `count` on: its sound goes within FADE_S, so that it does not click."""
        if planned.sound is None:
            return planned
        begin = count * self._frame_samples
        heard, fade = np.zeros_like(planned.sound.heard), round(FADE_S * self.options.sample_rate)
        heard[begin : begin + fade] = planned.sound.heard[begin : begin + fade] * np.linspace(1, 0, fade, dtype=np.float32)
        return replace(planned, answer=None, sound=replace(planned.sound, heard=heard, length=0))

    def _silence(self) -> Floats:
        return np.zeros(self._frame_samples, np.float32)

    # -- life of the session ----------------------------------------------------------------------------

    def start(self) -> LiveAvatar:
        """Begin to make frames."""
        self._thread = threading.Thread(target=self._run, name="tm-live", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop; its threads have ended when this returns. Again is no error."""
        with self._changed:
            self._token.cancel()
            self._step_token.cancel()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._changed:
            self._state = "closed"
            self._ready.clear()

    def __enter__(self) -> LiveAvatar:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_ready(self, timeout_s: float = 60.0) -> bool:
        """Whether so many frames are ready within the time that it can begin to be shown."""
        with self._changed:
            over = self._changed.wait_for(lambda: len(self._ready) > 1 or self._error is not None or self._token.cancelled, timeout_s)
            return over and self._error is None and not self._token.cancelled

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self._state == "closed":
            raise InputError("session", "closed", "nothing can be said or shown any more", "open another session")

    def _move(self, state: AvatarState) -> None:
        if state != self._state:
            if state not in TRANSITIONS[self._state]:
                raise RuntimeError(f"a session cannot go from {self._state} to {state}")
            self._state = state

    def _run(self) -> None:
        device = self._model.dit.compute_device
        denoise, decode = share_cpu(device, self._reference.device)
        try:
            chunks = run_pipeline(
                self._chunks, self._decoded, denoise_on=WorkerConfig(device=device, threads=denoise),
                decode_on=WorkerConfig(device=self._reference.device, threads=decode), queue_depth=1, cancel=self._token,
                prepare=self._decoder.prepare)
            with closing(chunks):
                for chunk in chunks:
                    self._collect(chunk)
        except Cancelled:
            pass
        except BaseException as error:  # it belongs to whoever takes frames
            with self._changed:
                self._error = error
                self._changed.notify_all()

    @property
    def every(self) -> int:
        """1 where all frames are made; 2: every second one, because the machine is too slow at present."""
        if time.monotonic() - self._behind_at >= SLOW_S and self._every == 2:
            chunk_s = float(self._timeline.stride * self.options.chunk_latents / self.fps)
            self._every = 1 if max(self._step_s, 1.8 * self._decoder.mean_s) < ROOM * chunk_s else 2
        return self._every

    @property
    def _work_s(self) -> float:
        """Seconds from the decision on a chunk to its frames, where another one is just being decoded."""
        return self._step_s + 1.5 * self._decoder.mean_s

    def _collect(self, chunk: FrameChunk) -> None:
        with self._changed:
            planned = self._planned.pop(chunk.index)
            if self._is_stale(planned) or not len(chunk.frames):
                self.counts.dropped += 1
            else:
                self._ready.append((planned, chunk.frames, 0))
                self.counts.chunks, self.counts.chunk_s = self.counts.chunks + 1, self._work_s
            self._changed.notify_all()

    # -- making chunks ----------------------------------------------------------------------------------

    def _chunks(self, token: CancelToken) -> Generator[LatentChunk, None, None]:
        """The worker that denoises."""
        state, index = self._sampler.open(self._scene, self.options.seed), 0
        kept: dict[int, SamplerState[Any]] = {}
        while (planned := self._plan(token)) is not None:
            serial, chunk = planned
            if chunk.index != index:  # what was made since is forgotten
                state = state.gone_back(kept[chunk.index])
            index = chunk.index
            if index not in kept:
                kept[index] = state.copy()
                for old in [k for k in kept if k < self._chunk_at(self._handed) - 1]:
                    del kept[old]
            for later in [k for k in kept if k > index]:
                del kept[later]
            began = time.monotonic()
            try:
                made, state = self._sampler.step(state, self._step_token)
            except Cancelled:
                index = -1
                if token.cancelled:
                    return
                with self._changed:
                    self._planned.pop(serial)
                    self.counts.dropped += 1
                continue
            self._step_s = mean_of(self._step_s, time.monotonic() - began)
            index += 1
            yield replace(made, index=serial)

    def _plan(self, token: CancelToken) -> tuple[int, _Planned] | None:
        """Waits until another chunk is wanted, and decides what it says."""
        with self._changed:
            while not token.cancelled:
                self._begin_answer()
                frames = self._timeline.frames_of_chunk(self._next)
                if (frames.start - self._handed) / float(self.fps) < self.options.ahead_s and self._sound_is_there(len(frames)):
                    return self._decide(frames)
                self._changed.wait(0.02)
            return None

    def _begin_answer(self) -> None:
        """Speech that has just come is not behind all of the listening that was made ahead: that is made anew."""
        if self._state != "listening" or not (self.queue.frames >= len(self._timeline.frames_of_chunk(1)) or self.queue.ended):
            return
        soonest = self._handed + int(np.ceil(self._work_s * float(self.fps))) + 1  # what is made now is ready by then
        coming = [p for p, _, _ in self._ready] + list(self._planned.values())
        said = [p.index + 1 for p in coming if p.answer is not None and not self._is_stale(p)]
        if (index := max([self._chunk_at(soonest), *said])) < self._next:
            self._cut(index)
        self._answer += 1
        self._move("speaking")

    def _sound_is_there(self, frames: int) -> bool:
        """Whether the next chunk can be decided on; late speech is waited for a little, then the face listens."""
        if self._state == "listening" or self.queue.ended or self.queue.frames >= frames:
            self._starved_at = None
            return True
        now = time.monotonic()
        self._starved_at = self._starved_at or now
        return not self._ready and now - self._starved_at > PATIENCE_S

    def _decide(self, frames: range) -> tuple[int, _Planned]:
        speaks = self._state != "listening" and (self.queue.ended or self.queue.frames >= len(frames))
        sound = self.queue.take(len(frames)) if speaks else None
        self._past = self._past.followed_by(None if sound is None else sound.model, frames)
        for latent in self._timeline.latents_of_chunk(self._next):
            self._flags[latent] = speaks
        for old in [k for k in self._flags if k < self._timeline.latents_of_chunk(self._next).start - 64]:
            del self._flags[old]
        planned = _Planned(
            index=self._next, generation=self._generation, sound=sound, answer=self._answer if speaks else None)
        if self._state != "listening":
            self._move("listening" if not self.queue.begun else "speaking" if speaks else "waiting")
        self._serial += 1
        self._planned[self._serial] = self._stepping = planned
        self._next += 1
        self._step_token = CancelToken()
        if self._token.cancelled:
            self._step_token.cancel()
        return self._serial, planned

    def _cut(self, index: int) -> None:
        """Chunks from `index` on, which were made ahead, are made anew."""
        index = min(index, self._next)
        self._generation += 1
        self._cuts.append((self._generation, index))
        self._next = index
        if self._stepping is not None and self._is_stale(self._stepping):
            self._step_token.cancel()
        dropped = [entry for entry in self._ready if self._is_stale(entry[0])]
        self.counts.dropped += len(dropped)
        self._ready = deque(entry for entry in self._ready if not self._is_stale(entry[0]))
        self._past = self._past.until(self._timeline.frames_of_chunk(index).start)

    def _is_stale(self, planned: _Planned) -> bool:
        return any(generation > planned.generation and index <= planned.index for generation, index in self._cuts)

    def _chunk_at(self, frame: int) -> int:
        """The first chunk of which no frame is before `frame`."""
        index = max(0, frame // (self._timeline.stride * self._timeline.chunk_latents) - 1)
        while self._timeline.frames_of_chunk(index).start < frame:
            index += 1
        return index

    # -- what the model hears ---------------------------------------------------------------------------

    def _speaking(self, latents: range) -> Tensor:
        return torch.tensor([self._flags.get(i, False) for i in latents])

    def _windows(self, latents: range) -> Tensor:
        """Windows (F, W, M): the past, and of what follows as much as is there."""
        with self._changed:
            ahead = self.options.look_ahead * self._timeline.stride
            follows = self.queue.ahead(ahead) if self._flags.get(latents[-1]) else np.zeros(0, np.float32)
            past, goes_on = self._past, self.queue.begun and not self.queue.ended
        return past.windows(latents, follows, goes_on)

    # -- what is drawn ----------------------------------------------------------------------------------

    def _decoded(self, chunk: LatentChunk) -> FrameChunk:
        """The worker that decodes; nothing of a chunk that is not wanted any more."""
        with self._changed:
            planned = self._planned[chunk.index]
            stale = self._is_stale(planned)
        step = Fraction(1) / self.fps
        if stale:
            return FrameChunk(index=chunk.index, frames=np.zeros((0, 1, 1, 3), np.uint8), pts=0, time_base=step)
        first = self._timeline.frames_of_chunk(planned.index).start
        frames = self._decoder.draw(planned.index, chunk.latents, first, self._said(planned.index), self.every)
        return FrameChunk(index=chunk.index, frames=frames, pts=first, time_base=step)

    def _said(self, index: int) -> NDArray[np.float64]:
        """(T,) how much is said in the frames of a chunk, 0..1: no motion begins at once."""
        latents = self._timeline.latents_of_chunk(index)
        with self._changed:
            flags = self._speaking(range(latents.start - EASE, latents.stop)).numpy().astype(np.float64)
        return eased(flags, len(self._timeline.frames_of_chunk(index)), self._timeline.stride)
