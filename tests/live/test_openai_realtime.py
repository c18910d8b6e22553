"""The agent that talks to a server of the Realtime protocol, with a small server of its own and no face."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="openai is not installed (extra agents)")
pytest.importorskip("websockets", reason="websockets is not installed (extra agents)")

from tests.live.played import Player, until
from tests.live.realtime_server import RATE, RealtimeServer
from tm_core.live.agents import Agent, AgentOptions, agent_named
from tm_core.live.avatar import Interruption
from tm_core.media.audio_io import read_audio

TONE = (0.4 * np.sin(2 * np.pi * 330 * np.arange(4 * RATE) / RATE)).astype(np.float32)
Scene = Callable[[Agent, Player, RealtimeServer], Awaitable[None]]


@pytest.fixture(scope="module")
def words(assets: Path) -> np.ndarray:
    """1.5 s of recorded speech and the quiet after it, at the microphone's rate."""
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[:24000]
    return np.concatenate([speech, np.zeros(16000, np.float32)]).astype(np.float32)


def played(scene: Scene, **server: Any) -> RealtimeServer:
    """A scene between an agent and a server, after which nothing was out of the protocol."""
    async def run() -> RealtimeServer:
        async with RealtimeServer(sound=server.pop("sound", TONE), **server) as meets:
            player = Player()
            options = AgentOptions(base_url=meets.address, model="small", voice="v", instructions="Be brief.")
            agent = agent_named("openai-realtime", options)(player.output)
            try:
                await asyncio.wait_for(scene(agent, player, meets), 60)
            finally:
                await agent.close()
        assert meets.broken == []
        return meets

    return asyncio.run(run())


async def speak(agent: Agent, samples: np.ndarray, pace: float = 0.1) -> None:
    """Into the microphone, ten times as fast as it is said."""
    for begin in range(0, len(samples), 320):
        await agent.hear(samples[begin : begin + 320])
        await asyncio.sleep(0.02 * pace)


async def opened(agent: Agent, meets: RealtimeServer) -> None:
    await agent.hear(np.zeros(320, np.float32))
    await until(lambda: meets.connections and meets.received)
    await asyncio.sleep(0.1)


def kinds(meets: RealtimeServer) -> list[str]:
    return [event["type"] for event in meets.received]


def test_a_turn_is_heard_and_answered(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await speak(agent, words)
        await until(lambda: any(item.done for item in meets.items.values()) and player.queue.ended)
        heard = player.play(10)
        assert abs(len(heard) / 48000 - 4) < 0.01
        inner = heard[1000:-1000]
        assert np.abs(np.fft.rfft(inner)).argmax() * 48000 / len(inner) == pytest.approx(330, abs=1)
        assert player.lines == [("user", "What I said."), ("avatar", "This is what I say.")]
        assert 0.5 <= player.turns[0] < 1.0

    meets = played(scene)
    assert meets.key == "Bearer none" and meets.path == "/v1/realtime?model=small"
    sound = meets.session["audio"]
    assert sound["input"]["format"] == sound["output"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert sound["input"]["turn_detection"]["type"] == "server_vad" and sound["output"]["voice"] == "v"
    assert meets.session["instructions"] == "Be brief."
    heard = np.concatenate(meets.heard)
    true = np.interp(np.arange(int(1.5 * RATE)) / RATE, np.arange(24000) / 16000, words[:24000])
    best = max(np.corrcoef(heard[lag : lag + len(true)], true)[0, 1] for lag in range(0, 2000) if len(heard) >= lag + len(true))
    assert best > 0.95  # the voice itself at 24 kHz; interpolation is what differs
    assert kinds(meets) == ["session.update"]  # nothing was cut, so nothing was truncated


@pytest.mark.parametrize(("heard_s", "ends_first"), [(0.0, False), (0.52, True), (1.0, False)])
def test_speaking_meanwhile_cuts_the_answer_where_it_was_heard(words: np.ndarray, heard_s: float, ends_first: bool) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await speak(agent, words)
        await until(lambda: player.said_s > 1.2)
        assert len(player.play(heard_s)) == round(48000 * heard_s)
        await speak(agent, words[8000:14000])
        await until(lambda: any(i.truncated_ms is not None for i in meets.items.values()))
        calls = len(player.calls)
        assert player.calls[-1] == "interrupt" and not player.queue.begun
        await asyncio.sleep(0.3)
        assert len(player.calls) == calls  # whatever was on its way says nothing any more
        [item] = meets.items.values()
        assert item.truncated_ms == pytest.approx(1000 * heard_s, abs=1)
        assert meets.cancelled == ["turn_detected"]
        # its second turn is answered anew
        await speak(agent, np.concatenate([words[8000:14000], np.zeros(16000, np.float32)]))
        await until(lambda: len(meets.items) == 2 and player.queue.ended)
        assert abs(len(player.play(10)) / 48000 - 4) < 0.01
        lines = [text for who, text in player.lines if who == "avatar"]
        cut = [text for text in lines if text.endswith(" ...")]
        assert len(lines) == len(cut) + 1  # and the second answer
        assert len(cut) == (heard_s > 0) and all("This is what I say.".startswith(text[:-4]) for text in cut)

    meets = played(scene, pause_s=0.05, ends_first=ends_first)
    assert kinds(meets).count("conversation.item.truncate") == 1


def test_the_button_cuts_what_waits_although_the_response_is_done(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await speak(agent, words)
        await until(lambda: player.queue.ended)
        player.play(2.0)
        await agent.interrupted(player.interrupt())
        await until(lambda: any(i.truncated_ms is not None for i in meets.items.values()))
        [item] = meets.items.values()
        assert item.truncated_ms == pytest.approx(2000, abs=1)
        await agent.interrupted(player.interrupt())  # again: nothing is said, nothing is told
        await asyncio.sleep(0.1)

    assert kinds(played(scene)) == ["session.update", "conversation.item.truncate"]


def test_the_button_while_the_server_speaks_cancels(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await speak(agent, words)
        await until(lambda: player.said_s > 0.5)
        player.play(0.2)
        await agent.interrupted(player.interrupt())
        said = player.said_s
        await until(lambda: meets.cancelled)
        await asyncio.sleep(0.2)
        assert player.said_s == said and not player.queue.begun
        assert not player.told("the server says")

    meets = played(scene, pause_s=0.05)
    assert kinds(meets) == ["session.update", "response.cancel", "conversation.item.truncate"]
    assert meets.cancelled == ["client_cancelled"]


def test_what_is_typed_is_answered_and_replaces_what_is_said() -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await agent.read("Hello?")  # connects
        await until(lambda: player.said_s > 0.5)
        player.play(0.4)
        await agent.read("No, wait.")
        await until(lambda: len(meets.items) == 2 and player.queue.ended)
        assert abs(len(player.play(10)) / 48000 - 4) < 0.01
        first, second = meets.items.values()
        assert first.truncated_ms == pytest.approx(400, abs=1) and second.truncated_ms is None
        assert not player.told("the server says")

    meets = played(scene, pause_s=0.05)
    assert kinds(meets) == [
        "session.update", "conversation.item.create", "response.create", "response.cancel", "conversation.item.truncate",
        "conversation.item.create", "response.create"]
    assert meets.received[1]["item"]["content"] == [{"type": "input_text", "text": "Hello?"}]


def test_the_button_before_the_response_has_begun() -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await agent.read("Hello?")
        await agent.interrupted(player.interrupt())
        await until(lambda: meets.cancelled)
        await asyncio.sleep(0.2)
        assert player.said_s == 0
        await agent.read("Again.")
        await until(lambda: player.queue.ended)

    played(scene)


def test_errors_of_the_server_are_one_line_each(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await meets.error("rate_limit", "Too many\nrequests", None)
        await until(lambda: player.told("(the server says: Too many requests)"))
        meets.fail = "out of order"
        await agent.read("Hello?")
        await until(lambda: player.told("(the server says: out of order)"))
        await meets.peer.send('{"type": "response.output_audio.delta", "delta": "!", "response_id": 7}')
        await meets.peer.send('{"type": "something.new"}')
        meets.fail = None
        await agent.read("Hello?")
        await until(lambda: player.queue.ended)
        assert len(player.lines) == 3

    played(scene)


def test_a_lost_connection_is_made_again_and_told(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await agent.read("Hello?")
        await until(lambda: player.said_s > 0.3)
        await meets.drop()
        await until(lambda: player.told("(connected again; the server has forgotten what was said before)"))
        assert player.told("(connection lost, connecting again)") and player.calls[-1] == "end"  # what came of the answer is complete
        assert meets.connections == 2 and kinds(meets).count("session.update") == 2
        await speak(agent, words)
        await until(lambda: len(meets.items) == 2)

    played(scene, pause_s=0.05)


def test_a_server_that_is_not_there_is_one_line() -> None:
    async def run() -> None:
        async with RealtimeServer(sound=TONE) as gone:
            address = gone.address
        player = Player()
        agent = agent_named("openai-realtime", AgentOptions(base_url=address))(player.output)
        await agent.hear(np.zeros(320, np.float32))
        await until(lambda: player.lines)
        await agent.read("Hello?")
        await until(lambda: len(player.lines) == 2)
        for who, line in player.lines:
            assert who == "avatar" and line.startswith(f"(no connection to {address}: ") and "\n" not in line, line
        await agent.close()

    asyncio.run(run())


def test_an_interruption_before_anything_was_said() -> None:
    async def scene(agent: Agent, player: Player, meets: RealtimeServer) -> None:
        await opened(agent, meets)
        await agent.interrupted(Interruption(answer=None, position_s=0.0))

    assert kinds(played(scene)) == ["session.update"]
