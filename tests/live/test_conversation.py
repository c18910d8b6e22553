"""From end to end: a peer speaks into a session whose agent asks a server of the Realtime protocol, and interrupts its answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import numpy as np
import pytest

pytest.importorskip("openai", reason="openai is not installed (extra agents)")
pytest.importorskip("websockets", reason="websockets is not installed (extra agents)")

from tests.live.caller import Caller, Microphone, again_if_late, until, with_server
from tests.live.realtime_server import RATE, RealtimeServer
from tm_core.live.agents import AgentOptions, agent_named
from tm_core.live.server import LiveServer
from tm_core.media.audio_io import read_audio

PEER_RATE, STEP, WINDOW = 48000, 240, 960  # a step of 5 ms, a window of 20
FROM_HZ, RISE = 300.0, 400.0  # the answer's pitch says how far it is, Hz a second, however much is lost on the way
SECONDS = np.arange(25 * RATE) / RATE  # longer than anybody listens
RISING = (0.4 * np.sin(2 * np.pi * (FROM_HZ * SECONDS + RISE / 2 * SECONDS**2))).astype(np.float32)


@pytest.fixture(scope="module")
def words(assets: Path) -> np.ndarray:
    """1.25 s of recorded speech."""
    return read_audio(next((assets / "speech").glob("*.wav"))).samples[4000:24000]


def places(pieces: list[np.ndarray]) -> list[float]:
    """Where in each answer, in seconds, the last sound of it ended in what was received; a lower pitch begins the next answer."""
    sound = np.concatenate([np.zeros(WINDOW, np.float32), *pieces])
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP]
    loud = windows[(np.sqrt((windows.reshape(len(windows), -1, STEP) ** 2).mean(2)) > 0.14).all(1)]
    if not len(loud):
        return []
    peaks = np.abs(np.fft.rfft(loud * np.hanning(WINDOW), 16 * WINDOW)).argmax(1) * PEER_RATE / (16 * WINDOW)
    found = (peaks - FROM_HZ) / RISE + WINDOW / PEER_RATE / 2
    return [float(part[-1]) for part in np.split(found, np.flatnonzero(np.diff(found) < -0.4) + 1)]


class Follower:
    """How many answers have begun to be heard, and how far the last one is, by the newest half second alone: the machine is busy enough."""

    def __init__(self, caller: Caller) -> None:
        self.caller, self.answers, self.place = caller, 0, 1e9

    def is_at(self, answers: int, place: float) -> bool:
        """Whether so many answers have begun and the last one is so far."""
        for found in places(self.caller.sound[-25:]):
            self.answers += found < self.place - 0.4
            self.place = found
        return self.answers >= answers and self.place > place


def test_a_peer_is_answered_interrupts_and_the_server_knows_what_it_heard(assets: Path, words: np.ndarray) -> None:
    def run(callers: list[Caller]) -> None:
        async def talk(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
            microphone = Microphone()
            caller = Caller(microphone)
            callers.append(caller)
            assert (await caller.call(client, address))[0] == 200
            await until(lambda: len(caller.sound) > 10)
            microphone.say(words)
            follower = Follower(caller)
            await until(lambda: follower.is_at(1, 0.7))
            microphone.say(words)  # into the answer
            await until(lambda: follower.is_at(2, 0.7))
            assert len(meets.items) == 2
            caller.channel.send(json.dumps({"type": "interrupt"}))
            await until(lambda: [i.truncated_ms is not None for i in meets.items.values()] == [True, True])
            caller.channel.send(json.dumps({"type": "text", "text": "And now?"}))
            await until(lambda: follower.is_at(3, 0.3))
            heard = await asyncio.to_thread(places, list(caller.sound))
            told = [i.truncated_ms / 1000 for i in list(meets.items.values())[:2]]
            assert told[0] > 0.5 and told[1] > 0.5 and len(meets.items) == len(heard) == 3
            assert heard[:2] == pytest.approx(told, abs=0.04)
            assert [t["position_s"] for t in caller.told if t["type"] == "interrupted"] == pytest.approx(told, abs=0.045)
            lines = [(t["who"], t["text"]) for t in caller.told if t["type"] == "transcript"]
            assert lines.count(("user", "What I said.")) == 2 and ("user", "And now?") in lines
            assert not [text for who, text in lines if who == "avatar" and text.startswith("(")]
            await caller.close()
            await until(lambda: not server.sessions, 15)

        meets = RealtimeServer(sound=RISING, pause_s=0.02)

        async def with_both(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
            async with meets:
                server._agent = agent_named("openai-realtime", AgentOptions(base_url=meets.address))
                await talk(server, address, client)

        with_server(assets, with_both)
        assert meets.broken == []

    again_if_late(run)


def test_who_calls_is_told_that_the_agents_server_is_not_there(assets: Path) -> None:
    async def call(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(Microphone())
        await caller.call(client, address)
        await until(lambda: any(t["type"] == "transcript" for t in caller.told))
        [line] = [t["text"] for t in caller.told if t["type"] == "transcript"]
        assert line.startswith("(no connection to http://127.0.0.1:9/v1: ") and line.endswith("; type something to try again)")
        await caller.close()

    with_server(assets, call, agent_named("openai-realtime", AgentOptions(base_url="http://127.0.0.1:9/v1")))
