"""The agent that reads aloud, with its real voice."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

pytest.importorskip("hibari", reason="hibari-tts is not installed (extra agents)")

from tests.live.caller import Caller, with_server
from tests.live.played import Player, until
from tm_core.live.agents import Agent, agent_named
from tm_core.live.agents.reader import DEAF
from tm_core.live.server import LiveServer
from tm_core.media.audio_io import read_audio

LONG = " ".join(f"This is sentence number {n}, and it is neither long nor short." for n in range(1, 25))


@pytest.fixture(scope="module")
def warm() -> None:
    """The voice is loaded once, so that later tests measure speaking."""
    asyncio.run(read(Player(), "Hello."))


async def read(player: Player, *lines: str) -> Agent:
    agent = agent_named("reader")(player.output)
    for line in lines:
        await agent.read(line)
    await until(lambda: "end" in player.calls)
    return agent


def test_what_is_typed_is_spoken_line_after_line(warm: None) -> None:
    player = Player()
    asyncio.run(read(player, "Hello there.", "How are you today?"))
    sound = player.play(20)
    assert player.calls.count("end") == 1 and player.calls[-1] == "end" and 1.5 < len(sound) / 48000 < 6
    levels = np.sqrt([np.mean(sound[i : i + 2400] ** 2) for i in range(0, len(sound) - 2400, 2400)])
    assert levels.max() > 0.03 and np.abs(sound).max() <= 1.01
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    speech = slice(*(round(f * len(sound) / 48000) for f in (80, 4000)))
    assert spectrum[speech].sum() > 0.9 * spectrum.sum()
    assert player.turns == [0.0]


def test_a_long_text_begins_early_and_never_holds_up_the_loop(warm: None) -> None:
    async def run() -> tuple[float, float, float]:
        player, gaps, began = Player(), [0.0], time.monotonic()
        agent = agent_named("reader")(player.output)
        await agent.read("Warm up.")  # this agent's own voice loads
        await until(lambda: "end" in player.calls)
        player.calls.clear()
        began = last = time.monotonic()
        await agent.read(LONG)
        first = 0.0
        while "end" not in player.calls:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            first = first or ("say" in player.calls and now - began)
        assert player.calls.count("say") == 24
        return first, time.monotonic() - began, max(gaps)

    first, whole, gap = asyncio.run(run())
    assert first < whole / 4 and gap < whole / 4  # one of 24 sentences


def test_an_interruption_ends_it_between_sentences_and_forgets_what_waits(warm: None) -> None:
    async def run() -> None:
        player = Player()
        agent = agent_named("reader")(player.output)
        await agent.read(LONG)
        await agent.read("And this.")
        await until(lambda: player.calls.count("say") >= 2)
        await agent.interrupted(player.interrupt())
        calls = len(player.calls)
        await asyncio.sleep(0.5)
        assert len(player.calls) == calls and player.calls[-1] == "interrupt" and player.calls.count("say") < 24
        await agent.read("Now this.")
        await until(lambda: player.calls[-1] == "end")
        assert player.calls[calls:] == ["say", "end"]
        await agent.close()

    asyncio.run(run())


def test_it_says_that_it_does_not_hear_once_and_what_it_cannot_say(warm: None, assets: Path) -> None:
    async def run() -> Player:
        player = Player()
        agent = agent_named("reader")(player.output)
        await agent.hear(np.zeros(16000, np.float32))
        assert player.lines == []
        speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[:48000]
        for _ in range(2):
            await agent.hear(speech)
            await agent.hear(np.zeros(16000, np.float32))
        assert player.lines == [("avatar", DEAF)]
        await agent.read("!? ...")
        await until(lambda: len(player.lines) == 2)
        assert player.told("I know no sound for this") and "say" not in player.calls
        await agent.close()
        return player

    asyncio.run(run())


def test_a_caller_types_and_hears_it(assets: Path) -> None:
    async def call(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(None)
        await caller.call(client, address)
        await until(lambda: caller.channel.readyState == "open")
        caller.channel.send(json.dumps({"type": "text", "text": "Hello there, how are you?"}))
        await until(lambda: any(t.get("state") == "speaking" for t in caller.told))
        await until(lambda: caller.told[-1].get("state") == "listening")
        sound = np.concatenate(caller.sound)
        assert (np.abs(sound) > 0.05).mean() > 0.02
        assert any(t.get("latency_ms") for t in caller.told)
        await caller.close()

    with_server(assets, call, agent_named("reader"))
