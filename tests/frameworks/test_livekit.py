"""LiveKit's own agent session, queue, runner, synchroniser and tracks in one process. There is no server here: nothing is published, what
the tracks would carry is looked at instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import numpy as np
import pytest
import soxr

from tm_core.live.avatar import LiveAvatar

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: run make frameworks")

from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.avatar import AudioSegmentEnd

from tm_core.live.livekit_avatar import LiveKitAvatar, LiveKitVideoGenerator

RATE, OUT, STEP = 16000, 48000, 320
LATE_S = 0.15  # a machine that does several things at once is given so much


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 90))


def pieces(speech: np.ndarray) -> list[rtc.AudioFrame]:
    return [rtc.AudioFrame(x.tobytes(), RATE, 1, len(x)) for x in (speech[i : i + STEP] for i in range(0, len(speech), STEP))]


def heard(frames: list[rtc.AudioFrame]) -> np.ndarray:
    return np.concatenate([np.frombuffer(f.data, np.int16) for f in frames])


def likeness(sound: np.ndarray, speech: np.ndarray) -> float:
    """Correlation of what was heard with the beginning of a speech."""
    true = soxr.resample(speech.astype(np.float32), RATE, OUT)
    count = min(len(sound), len(true))
    return float(np.corrcoef(sound[:count], true[:count])[0, 1])


async def until_end(items: AsyncIterator[Any]) -> list[Any]:
    """What a generator yields up to the end of a segment."""
    found = []
    async for item in items:
        found.append(item)
        if isinstance(item, AudioSegmentEnd):
            return found
    raise AssertionError("the generator ended")


def test_segments_leave_one_after_the_other_each_with_its_end(avatar: LiveAvatar, speech: np.ndarray) -> None:
    said = [speech[:RATE], speech[RATE * 2 : RATE * 3]]

    async def work() -> None:
        generator = LiveKitVideoGenerator(avatar)

        async def push() -> None:
            for part in said:
                for piece in pieces(part):
                    await generator.push_audio(piece)
                await generator.push_audio(AudioSegmentEnd())

        items = aiter_of(generator)
        began = time.monotonic()
        listening = [await anext_of(items) for _ in range(10)]
        assert all(isinstance(f, rtc.VideoFrame) and (f.width, f.height) == avatar.size for f in listening)
        assert time.monotonic() - began > 0.3  # at the frame rate
        pushing = asyncio.create_task(push())
        for part in said:
            found = await until_end(items)
            sounds = [i for i, item in enumerate(found) if isinstance(item, rtc.AudioFrame)]
            assert all(isinstance(found[i - 1], rtc.VideoFrame) for i in sounds)  # a frame with each, before it
            sound = heard([found[i] for i in sounds])
            assert abs(len(sound) - len(part) * 3) <= 3 and likeness(sound, part) > 0.999
        await pushing

    avatar.start()
    run(work())


def test_after_clear_buffer_no_sound_leaves_until_something_new_is_said(avatar: LiveAvatar, speech: np.ndarray) -> None:
    async def work() -> None:
        cleared = []

        async def on_clear() -> None:
            cleared.append((avatar.state, round(generator.handed_s, 6)))

        generator = LiveKitVideoGenerator(avatar, on_clear=on_clear)
        items = aiter_of(generator)
        for piece in pieces(speech):
            await generator.push_audio(piece)
        sounds = 0
        while sounds < 20:
            sounds += isinstance(await anext_of(items), rtc.AudioFrame)
        assert isinstance(await anext_of(items), rtc.VideoFrame)  # its sound is next
        await generator.push_audio(AudioSegmentEnd())
        waiting = asyncio.create_task(generator.push_audio(pieces(speech)[0]))  # the next segment, behind the one that is spoken
        await asyncio.sleep(0)
        await generator.clear_buffer()
        assert cleared == [("listening", 0.8)]
        assert all([isinstance(await anext_of(items), rtc.VideoFrame) for _ in range(25)])
        await waiting
        assert not avatar.queue.begun  # what waited when the buffer was cleared is old too
        new = speech[RATE * 4 : RATE * 5]
        for piece in pieces(new):
            await generator.push_audio(piece)
        await generator.push_audio(AudioSegmentEnd())
        sound = heard([item for item in await until_end(items) if isinstance(item, rtc.AudioFrame)])
        assert abs(len(sound) - len(new) * 3) <= 3 and likeness(sound, new) > 0.999

    avatar.start()
    run(work())


class Tracks:
    """What a participant would get: all that leaves a runner's two sources, and when."""

    def __init__(self, runner: Any) -> None:
        runner._video_publication = object()  # else it waits until a server has taken the tracks
        picture = rtc.LocalVideoTrack.create_video_track("picture", runner._video_source)
        sound = rtc.LocalAudioTrack.create_audio_track("sound", runner._audio_source)
        self._streams = rtc.VideoStream(picture), rtc.AudioStream(sound, sample_rate=OUT, num_channels=1)
        self.pictures: list[float] = []
        self.sounds: list[tuple[float, np.ndarray]] = []
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._hear())]

    async def _look(self) -> None:
        async for _ in self._streams[0]:
            self.pictures.append(time.monotonic())

    async def _hear(self) -> None:
        async for event in self._streams[1]:
            self.sounds.append((time.monotonic(), np.frombuffer(event.frame.data, np.int16).copy()))

    def between(self, begin: float, end: float) -> np.ndarray:
        """The sound from one moment to another."""
        return np.concatenate([x for at, x in self.sounds if begin <= at <= end])

    def said(self, begin: float, end: float) -> np.ndarray:
        """The same without the silence that LiveKit puts between its steps of 10 ms where sound comes late, on a slow machine."""
        return np.concatenate([np.zeros(0, np.int16), *(x for at, x in self.sounds if begin <= at <= end and x.any())])

    async def __aenter__(self) -> Tracks:
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            await stream.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_an_agent_session_speaks_and_is_interrupted_in_one_process(avatar: LiveAvatar, speech: np.ndarray) -> None:
    async def spoken(part: np.ndarray) -> AsyncIterator[rtc.AudioFrame]:
        for piece in pieces(part):
            yield piece

    async def work() -> None:
        session, portrait = AgentSession(), LiveKitAvatar(avatar)
        await portrait.start(session, rtc.Room())
        assert session.output.audio is portrait.output
        finished, started = [], []
        portrait.output.on("playback_finished", finished.append)
        portrait.output.on("playback_started", lambda event: started.append(time.monotonic()))
        async with Tracks(portrait._runner) as tracks:
            await session.start(Agent(instructions="say what you are told"))

            whole = speech[: RATE * 2]
            await session.say("the first answer", audio=spoken(whole)).wait_for_playout()
            await asyncio.sleep(0.3)
            assert [(e.interrupted, round(e.playback_position, 3)) for e in finished] == [(False, 2.0)]
            sound = tracks.said(started[0] - LATE_S, time.monotonic())
            assert abs(len(sound) - len(whole) * 3) <= OUT // 50 and likeness(sound, whole) > 0.95

            saying = session.say("an answer nobody hears to its end", audio=spoken(speech))
            while len(started) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.5)
            at = time.monotonic()
            saying.interrupt()
            await saying.wait_for_playout()
            assert time.monotonic() - at < 0.5 and saying.interrupted
            await asyncio.sleep(1)
            played = len(tracks.said(started[1] - LATE_S, at + 1)) / OUT
            assert finished[1].interrupted and finished[1].playback_position == pytest.approx(played, abs=0.1)
            assert not tracks.between(at + LATE_S, at + 1).any()  # nothing of it afterwards
            shown = [t for t in tracks.pictures if at < t < at + 1]
            assert len(shown) >= 15  # and the face goes on

            last = speech[RATE * 5 : RATE * 6]
            await session.say("the last answer", audio=spoken(last)).wait_for_playout()
            await asyncio.sleep(0.3)
            assert not finished[2].interrupted and finished[2].playback_position == pytest.approx(1, abs=1e-3)
            sound = tracks.said(at + 1, time.monotonic())
            assert abs(len(sound) - len(last) * 3) <= OUT // 50 and likeness(sound, last) > 0.95
            await session.aclose()
            await portrait.aclose()
            await portrait.aclose()  # again
            assert avatar.state == "closed" and session.output.audio is None

    run(work())


def aiter_of(generator: LiveKitVideoGenerator) -> AsyncIterator[Any]:
    return generator.__aiter__()


async def anext_of(items: AsyncIterator[Any]) -> Any:
    return await items.__anext__()
