"""From end to end: a peer speaks into a session whose agent asks a server of the Realtime protocol, and interrupts its answer."""

from __future__ import annotations

import asyncio
import json
import wave
from pathlib import Path

import aiohttp
import numpy as np
import pytest

pytest.importorskip("openai", reason="openai is not installed (extra agents)")
pytest.importorskip("websockets", reason="websockets is not installed (extra agents)")

from tests.live.caller import Caller, until, with_server
from tests.live.realtime_server import RATE, RealtimeServer
from tm_core.live.agents import AgentOptions, agent_named
from tm_core.live.server import LiveServer
from tm_core.media.audio_io import read_audio

PEER_RATE, STEP, WINDOW = 48000, 240, 960  # a step of 5 ms, a window of 20
FROM_HZ, RISE = 300.0, 400.0  # the answer's pitch says how far it is, Hz a second, however much is lost on the way
SECONDS = np.arange(25 * RATE) / RATE  # longer than anybody listens
RISING = (0.4 * np.sin(2 * np.pi * (FROM_HZ * SECONDS + RISE / 2 * SECONDS**2))).astype(np.float32)


@pytest.fixture(scope="module")
def two_turns(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turn, time for an answer to begin, and another one into it."""
    path = tmp_path_factory.mktemp("turns") / "turns.wav"
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[4000:24000]
    samples = np.concatenate([np.zeros(16000), speech, np.zeros(16000 * 7), speech, np.zeros(16000 * 20)])
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((samples * 32767).astype(np.int16).tobytes())
    return path


def heard_up_to(caller: Caller, since: int = 0) -> float:
    """The place in the answer, in seconds, where the last sound of it ended; 0 before it began."""
    sound = np.concatenate([np.zeros(WINDOW, np.float32), *caller.sound[since:]])
    steps = sound[len(sound) % STEP :].reshape(-1, STEP)
    loud = np.flatnonzero(np.sqrt((steps**2).mean(1)) > 0.14)
    if len(loud) < WINDOW // STEP:
        return 0.0
    end = len(sound) - (len(steps) - 1 - loud[-1]) * STEP
    spectrum = np.abs(np.fft.rfft(sound[end - WINDOW : end] * np.hanning(WINDOW), 32 * WINDOW))
    return float((spectrum.argmax() * PEER_RATE / (32 * WINDOW) - FROM_HZ) / RISE + WINDOW / PEER_RATE / 2)


def test_a_peer_is_answered_interrupts_and_the_server_knows_what_it_heard(assets: Path, two_turns: Path) -> None:
    async def talk(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(two_turns)
        assert (await caller.call(client, address))[0] == 200
        await until(lambda: len(meets.items) == 1)
        [first] = meets.items.values()
        await until(lambda: first.truncated_ms is not None)  # by the second turn of the voice
        await asyncio.sleep(1)
        heard = heard_up_to(caller)
        assert first.truncated_ms > 500 and heard == pytest.approx(first.truncated_ms / 1000, abs=0.04)
        await until(lambda: any(t["type"] == "interrupted" for t in caller.told), 5)
        assert next(t["position_s"] for t in caller.told if t["type"] == "interrupted") == pytest.approx(heard, abs=0.08)

        # the second answer, and the button
        before = len(caller.sound)
        await until(lambda: len(meets.items) == 2)
        second = list(meets.items.values())[1]
        await until(lambda: heard_up_to(caller, before) > 0.7)
        caller.channel.send(json.dumps({"type": "interrupt"}))
        await until(lambda: second.truncated_ms is not None)
        await asyncio.sleep(1)
        assert heard_up_to(caller, before) == pytest.approx(second.truncated_ms / 1000, abs=0.04)

        # what is typed is answered too
        caller.channel.send(json.dumps({"type": "text", "text": "And now?"}))
        before = len(caller.sound)
        await until(lambda: len(meets.items) == 3)
        await until(lambda: heard_up_to(caller, before) > 0.2)
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


def test_who_calls_is_told_that_the_agents_server_is_not_there(assets: Path, two_turns: Path) -> None:
    async def call(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(two_turns)
        await caller.call(client, address)
        await until(lambda: any(t["type"] == "transcript" for t in caller.told))
        [line] = [t["text"] for t in caller.told if t["type"] == "transcript"]
        assert line.startswith("(no connection to http://127.0.0.1:9/v1: ") and line.endswith("; type something to try again)")
        await caller.close()

    with_server(assets, call, agent_named("openai-realtime", AgentOptions(base_url="http://127.0.0.1:9/v1")))
