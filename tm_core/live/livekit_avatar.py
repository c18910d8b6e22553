"""LiveKit Agents: a LiveAvatar as a VideoGenerator, and what hands it to an agent session of the same process. Not part of the paper.

Importing this needs `livekit-agents` (extra `livekit`). Sound and pictures of an answer leave in pairs; while the face listens pictures
leave alone, because LiveKit counts every sample it is given as heard of the answer. Non-goals: rooms and tokens, avatars in a process of
their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .avatar import LiveAvatar, LivePair
from .pacing import Pacer
from .speech_queue import Floats

try:
    from livekit import rtc
    from livekit.agents import get_job_context
    from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput, VideoGenerator
    from livekit.agents.voice.avatar import AvatarOptions as RunnerOptions
except ModuleNotFoundError as error:
    raise InputError("livekit", f"{error.name}", "is not installed", "run: pip install 'talking-machines[livekit]'") from error

LEAD_S = 0.04  # of an answer that is handed out before its time; the runner's queues hold 0.1 s, pictures wait there for their moment


class LiveKitVideoGenerator(VideoGenerator):  # type: ignore[misc]
    """LiveKit's contract over a LiveAvatar that has been started; one reader at a time, all of it in one event loop.

    Segments are spoken one after the other: `push_audio` waits while the one before is still spoken, so that each has an end of its own.
    """

    def __init__(
        self, avatar: LiveAvatar, *, on_begin: Callable[[], object] | None = None, on_clear: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_begin` is called before the first sound of a segment; `on_clear` awaited when the buffer has been cleared."""
        self._avatar, self._on_begin, self._on_clear = avatar, on_begin, on_clear
        self.handed_s = 0.0  # of the segment under way, or over last, in sound that has left
        self._clears = 0
        self._spoken: int | None = None  # the answer that was over last: the silence that fills its last chunk is still handed out
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._pushed_s, self._ended, self._begun = 0.0, False, False
        self._free = asyncio.Event()
        self._free.set()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """The next sound of a segment, or its end; InputError as for LiveAvatar.push_audio."""
        if isinstance(frame, AudioSegmentEnd):
            self._avatar.end_of_speech()
            if self._pushed_s:
                self._ended = True
                self._free.clear()
            return
        clears = self._clears
        while self._ended and clears == self._clears:
            await self._free.wait()
        if clears == self._clears and frame.samples_per_channel:
            self._avatar.push_audio(_mono(frame), frame.sample_rate)
            self._pushed_s += frame.samples_per_channel / frame.sample_rate

    async def clear_buffer(self) -> None:
        """Stop speaking at once: no sample of what was pushed leaves any more."""
        self._clears += 1
        self._avatar.interrupt()
        if not self._begun:
            self.handed_s = 0.0
        self._free.set()
        self._begin_segment()
        if self._on_clear is not None:
            await self._on_clear()

    def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Pictures at the frame rate, the sound of an answer with them, and the ends of segments. Raises what the avatar failed of.

        An answer runs LEAD_S ahead, so that its sound has no gaps where this comes a little late.
        """
        return self._pairs()

    async def _pairs(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        avatar, pacer, lead_s = self._avatar, Pacer(self._avatar.fps), 0.0
        await asyncio.to_thread(avatar.wait_ready)
        while True:
            await asyncio.sleep(pacer.wait_s(time.monotonic(), lead_s))
            pair, clears = avatar.take(), self._clears
            lead_s = LEAD_S if pair.answer is not None else 0.0
            yield _picture(pair)
            if pair.answer in (None, self._spoken) or clears != self._clears:
                continue
            if len(samples := self._said(pair)):
                self._count(len(samples))
                yield _sound(samples, avatar.options.sample_rate)
            if self._ended and clears == self._clears and pair.position_s >= self._pushed_s - 1e-3:
                self._spoken = pair.answer
                self._free.set()
                self._begin_segment()
                yield AudioSegmentEnd()

    def _count(self, samples: int) -> None:
        if not self._begun:
            self._begun, self.handed_s = True, 0.0
            if self._on_begin is not None:
                self._on_begin()
        self.handed_s += samples / self._avatar.options.sample_rate

    def _said(self, pair: LivePair) -> Floats:
        """The samples of a pair without the silence that fills the segment's last chunk: LiveKit would count it as heard."""
        after = round((pair.position_s - self._pushed_s) * self._avatar.options.sample_rate)
        return pair.samples[: len(pair.samples) - max(0, after)]


class LiveKitAvatar:
    """A portrait that speaks for an AgentSession of the same process and publishes picture and sound as its participant.

    After LiveKit's AvatarSession, but not derived from it: closing that one removes the avatar's participant from the room, which here is
    the agent itself.
    """

    def __init__(self, avatar: LiveAvatar) -> None:
        """The avatar is started and closed here."""
        self._avatar = avatar
        self._runner: AvatarRunner | None = None
        self._session: Any = None
        self.output = _HeardOutput(sample_rate=avatar.options.sample_rate, wait_playback_start=True)

    async def start(self, agent_session: Any, room: rtc.Room) -> None:
        """Before `agent_session.start`, so that the session makes no sound track of its own."""
        width, height = self._avatar.size
        options = RunnerOptions(
            video_width=width, video_height=height, video_fps=float(self._avatar.fps),
            audio_sample_rate=self._avatar.options.sample_rate, audio_channels=1)
        generator = LiveKitVideoGenerator(self._avatar, on_begin=self.output.begin, on_clear=self._drop_sent)
        self.output.generator = generator
        self._avatar.start()
        self._session, self._runner = agent_session, AvatarRunner(room, audio_recv=self.output, video_gen=generator, options=options)
        await self._runner.start()
        agent_session.output.audio = self.output
        if (job := get_job_context(required=False)) is not None:
            job.add_shutdown_callback(self.aclose)

    async def aclose(self) -> None:
        """Nothing is said or shown any more; again is no error."""
        session, self._session = self._session, None
        runner, self._runner = self._runner, None
        if session is not None and session.output.audio is self.output:
            session.output.audio = None
        if runner is not None:
            await runner.aclose()
        await asyncio.to_thread(self._avatar.close)

    async def _drop_sent(self) -> None:
        """What waits in the runner's queues is not played any more, and does not count as heard: the runner itself forgets both."""
        assert self._runner is not None
        sync = self._runner.av_sync
        self.output.unheard_s = max(0.0, -sync.last_audio_time)  # the runner tells no times, so that this is minus what is queued
        await sync.clear_queue()


class _HeardOutput(QueueAudioOutput):  # type: ignore[misc]
    """Tells the agent when an answer began and how much of it was played.

    Both by the generator's count: a frame that waits for its track when the buffer is cleared is one of the next answer to the runner.
    """

    generator: LiveKitVideoGenerator | None = None
    unheard_s = 0.0  # of what was handed out, when the buffer was cleared last

    def begin(self) -> None:
        """The first sound of an answer leaves."""
        super().notify_playback_started()

    def notify_playback_started(self) -> None:
        """What the runner says."""

    def notify_playback_finished(self, playback_position: float, interrupted: bool) -> None:
        """`playback_position` in seconds, as the runner counts."""
        assert self.generator is not None
        super().notify_playback_finished(max(0.0, self.generator.handed_s - (self.unheard_s if interrupted else 0.0)), interrupted)


def _mono(frame: rtc.AudioFrame) -> Floats:
    """(n,) in -1..1."""
    levels: NDArray[np.int16] = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
    return np.asarray(levels.mean(1) / 32768, np.float32)


def _sound(samples: Floats, rate: int) -> rtc.AudioFrame:
    return rtc.AudioFrame((samples.clip(-1, 1) * 32767).astype(np.int16).tobytes(), rate, 1, len(samples))


def _picture(pair: LivePair) -> rtc.VideoFrame:
    height, width = pair.frame.shape[:2]
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, np.ascontiguousarray(pair.frame).tobytes())
