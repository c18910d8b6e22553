"""A pipecat pipeline over its own SmallWebRTCTransport, and an aiortc peer that watches and listens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from tm_core.live.avatar import LiveAvatar

pytest.importorskip("pipecat", reason="pipecat-ai is not installed: run make frameworks")

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    TextType,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

from tm_core.live.pipecat_avatar import PipecatVideoService

RATE, OUT = 16000, 48000
QUIET = 300  # below it, of 32768: silence after Opus
LATE_S = 0.6  # from an interruption to the peer's silence: network, jitter buffer, a machine that does several things at once


class Peer:
    """Who looks and listens: what arrives, and when."""

    def __init__(self) -> None:
        self._connection = RTCPeerConnection()
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.sounds: list[tuple[float, np.ndarray]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._connection.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._receive(track))))

    async def connect(self, connection: SmallWebRTCConnection) -> None:
        for kind in ("audio", "video"):
            self._connection.addTransceiver(kind, direction="recvonly")
        await self._connection.setLocalDescription(await self._connection.createOffer())
        await connection.initialize(sdp=self._connection.localDescription.sdp, type="offer")
        answer = connection.get_answer()
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type=answer["type"]))

    async def _receive(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                if track.kind == "video":
                    self.pictures.append((time.monotonic(), frame.to_ndarray(format="rgb24")))
                else:
                    self.sounds.append((time.monotonic(), frame.to_ndarray().reshape(-1, 2)[:, 0].copy()))

    def heard(self, begin: float, end: float) -> np.ndarray:
        """(n,) the sound from one moment to another."""
        return np.concatenate([x for at, x in self.sounds if begin <= at <= end])

    async def close(self) -> None:
        await self._connection.close()
        await asyncio.gather(*self._tasks)


class Notes(FrameProcessor):
    """At the end of the pipeline, where frames come when they have been played, and at its beginning, where they come back."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, Frame]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append((time.monotonic(), frame))
        await self.push_frame(frame, direction)

    def when(self, kind: type[Frame]) -> list[float]:
        return [at for at, frame in self.seen if isinstance(frame, kind)]


class Conversation:
    """A pipeline that runs, and its peer."""

    def __init__(self, avatar: LiveAvatar, **service: Any) -> None:
        width, height = avatar.size
        connection = SmallWebRTCConnection()
        transport = SmallWebRTCTransport(connection, TransportParams(
            audio_out_enabled=True, audio_out_end_silence_secs=0, video_out_enabled=True, video_out_width=width, video_out_height=height,
            video_out_framerate=30, video_out_is_live=not service.get("sync_with_audio", True)))
        self.service, self.notes, self.peer, self._connection = PipecatVideoService(avatar, **service), Notes(), Peer(), connection
        self.interrupted: list[float] = []
        self.service.add_event_handler("on_answer_interrupted", self._on_interrupted)
        self.worker = PipelineWorker(
            Pipeline([transport.input(), self.service, transport.output(), self.notes]),
            params=PipelineParams(audio_out_sample_rate=OUT), enable_rtvi=False)

    async def _on_interrupted(self, _: PipecatVideoService, position_s: float) -> None:
        self.interrupted.append(position_s)

    async def say(self, speech: np.ndarray, words: str, *more: Frame) -> None:
        """As a text-to-speech service does: all at once, faster than it is spoken; what was said follows the sound."""
        parts = [speech[i : i + RATE // 10] for i in range(0, len(speech), RATE // 10)]
        sounds = [TTSAudioRawFrame(audio=x.tobytes(), sample_rate=RATE, num_channels=1, context_id=words) for x in parts]
        text = TTSTextFrame(words, TextType.SENTENCE)
        await self.worker.queue_frames([TTSStartedFrame(context_id=words), *sounds, text, *more, TTSStoppedFrame(context_id=words)])

    async def until(self, kind: type[Frame], count: int) -> float:
        """The moment at which so many of these had been played."""
        while len(found := self.notes.when(kind)) < count:
            await asyncio.sleep(0.01)
        return found[count - 1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Conversation]:
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        await self.peer.connect(self._connection)
        going = asyncio.create_task(runner.run())
        try:
            while len(self.peer.pictures) < 5:
                await asyncio.sleep(0.02)
            yield self
            await self.worker.queue_frame(EndFrame())
            await asyncio.wait_for(going, 20)
        finally:
            await self.worker.cancel()
            await going
            await self.peer.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 90))


def loud(sound: np.ndarray) -> float:
    """Seconds of a sound that are not silent, in steps of 20 ms."""
    steps = sound[: len(sound) // 960 * 960].reshape(-1, 960)
    return float((np.abs(steps).max(1) > QUIET).sum() * 0.02)


async def eventually(condition: Callable[[], bool], within_s: float = 10) -> None:
    """Waits, as a slow machine may need."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


def lips(avatar: LiveAvatar, pictures: list[np.ndarray]) -> np.ndarray:
    """(T,) how different the mouth looks from the portrait's, in grey levels."""
    x, y = avatar._view.landmarks[[61, 291, 0, 17], :2].round().astype(int).T
    box = slice(y.min() - 4, y.max() + 12), slice(x.min() - 2, x.max() + 2)
    return np.array([np.abs(p[box].astype(float) - avatar._view.picture[box]).mean() for p in pictures])


def test_a_peer_sees_and_hears_answers_and_an_interruption(avatar: LiveAvatar, speech: np.ndarray) -> None:
    first, third = speech[: RATE * 2], speech[RATE * 5 : RATE * 6]

    async def work() -> None:
        talk = Conversation(avatar)
        async with talk.running():
            peer, notes = talk.peer, talk.notes
            began = time.monotonic()
            await talk.say(first, "first")
            stopped = await talk.until(TTSStoppedFrame, 1)
            await eventually(lambda: loud(peer.heard(began, time.monotonic())) > 0.8 * loud(np.repeat(first, 3)))
            started = notes.when(BotStartedSpeakingFrame)[0]
            assert notes.when(TTSTextFrame)[0] > started + 1.7  # behind the sound, not before it
            assert len(notes.when(BotStoppedSpeakingFrame)) == 1
            pictures = [x for at, x in peer.pictures if started + 0.3 < at < stopped]
            assert len(pictures) > 10
            assert np.corrcoef(pictures[0].reshape(-1), avatar._view.picture.reshape(-1))[0, 1] > 0.95

            kept = TTSTextFrame("a frame that no interruption stops", TextType.SENTENCE)
            kept.interruptible = False
            await talk.say(speech, "second", kept)
            said = await talk.until(BotStartedSpeakingFrame, 2)
            await asyncio.sleep(1.5)
            await talk.worker.queue_frame(InterruptionFrame())
            at = await talk.until(InterruptionFrame, 1)
            await asyncio.sleep(1.6)
            played = loud(peer.heard(said, at + LATE_S))  # with the edges of pauses, where the machine is slow
            assert len(talk.interrupted) == 1 and played / 1.5 - 0.3 < talk.interrupted[0] < at - said + 0.3
            assert loud(peer.heard(at + LATE_S, time.monotonic())) == 0  # nothing of it afterwards
            moving = np.ptp(lips(avatar, pictures))
            assert moving > 4
            await eventually(lambda: np.ptp(lips(avatar, [x for t, x in peer.pictures if t > at][-12:])) < 0.3 * moving, 4)
            seen = len(peer.pictures)
            await eventually(lambda: len(peer.pictures) > seen + 10)  # the face goes on, its mouth at rest

            await talk.say(third, "third")
            await talk.say(third, "fourth")  # and the pipeline's end at once: all of it is spoken before
        assert avatar.state == "closed"
        told = [f for _, f in notes.seen if isinstance(f, TTSStartedFrame | TTSTextFrame | TTSStoppedFrame | InterruptionFrame | EndFrame)]
        assert [getattr(f, "text", type(f).__name__.removesuffix("Frame")) for f in told] == [
            "TTSStarted", "first", "TTSStopped", "TTSStarted", "Interruption", kept.text,
            "TTSStarted", "third", "TTSStopped", "TTSStarted", "fourth", "TTSStopped", "End"]
        sounds = [f.audio for t, f in notes.seen if isinstance(f, TTSAudioRawFrame) and t > at + 1]
        assert sum(map(len, sounds)) / 2 / OUT == pytest.approx(2 * len(third) / RATE, abs=0.33)  # whole chunks

    run(work())


def test_a_transport_whose_video_is_live_shows_pictures_too(avatar: LiveAvatar, speech: np.ndarray) -> None:
    async def work() -> None:
        talk = Conversation(avatar, sync_with_audio=False)
        async with talk.running():
            began, part = time.monotonic(), speech[:RATE]
            await talk.say(part, "first")
            await talk.until(BotStartedSpeakingFrame, 1)
            await talk.worker.queue_frame(UserStartedSpeakingFrame())  # without an interruption: the answer goes on
            await talk.until(UserStartedSpeakingFrame, 1)
            await talk.until(TTSStoppedFrame, 1)
            assert not talk.interrupted
            await eventually(lambda: loud(talk.peer.heard(began, time.monotonic())) > 0.8 * loud(np.repeat(part, 3)))
            await eventually(lambda: len([at for at, _ in talk.peer.pictures if at > began]) > 10)

    run(work())
