"""The server with real peers: aiortc in this process, and Chromium with a recorded voice as its microphone."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from parity.chromium import CHROMIUM, Browser
from tests.live.caller import Caller, again_if_late, found_in, served, until, with_server
from tm_core.errors import InputError
from tm_core.live.agents import agent_named
from tm_core.live.server import LARGEST_UPLOAD, LiveServer, ServeOptions
from tm_core.live.session import WAITING, PairTrack
from tm_core.media.audio_io import read_audio

BROKEN_OFFERS = (
    "", "{", "[]", '{"sdp": 5}', '{"sdp": "v=0"}', '{"sdp": "v=0\\r\\nm=audio 9 X 0"}', json.dumps({"sdp": "x" * 300_000}),
    "[" * 100_000)


@pytest.fixture(scope="module")
def voice(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of recorded speech between silences."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[: 24000]
    samples = np.concatenate([np.zeros(16000), speech, np.zeros(16000 * 12)])
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((samples * 32767).astype(np.int16).tobytes())
    return path


def test_a_peer_speaks_and_is_answered_in_its_own_voice(assets: Path, voice: Path) -> None:
    def run(callers: list[Caller]) -> None:
        async def talk(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
            before = threading.active_count()
            caller = Caller(voice)
            callers.append(caller)
            assert (await caller.call(client, address))[0] == 200
            await until(lambda: any(t["type"] == "status" and t["state"] == "speaking" for t in caller.told))
            await until(lambda: caller.told[-1]["type"] == "status" and caller.told[-1]["state"] == "listening")
            sound = np.concatenate(caller.sound)
            assert len(caller.pictures) > 40 and caller.pictures[-1].shape == (96, 96, 3)
            words = read_audio(voice).samples[26000:30000]
            assert found_in(words, sound[::3]) > 0.5 > found_in(words[::-1].copy(), sound[::3])  # its own words, through Opus twice
            assert any(t["type"] == "transcript" and t["who"] == "user" for t in caller.told)
            assert [t["latency_ms"] for t in caller.told if t["type"] == "status"][-1] > 500  # turn detection alone takes so long
            # a second one is refused in one line while the first goes on
            other = Caller(None)
            status, body = await other.call(client, address)
            assert status == 503 and body == {"error": "sessions: 1 of 1 are taken; try again later"}
            await other.close()
            async with client.get(f"{address}/metrics") as answer:
                text = await answer.text()
            assert "talking_machines_sessions 1\n" in text and "talking_machines_sessions_refused_total 1\n" in text
            # whatever else is said to it is answered in one line
            for message in (
                "{", "[]", '{"type": "shout"}', '{"type": "text", "text": ""}', json.dumps({"type": "text", "text": "x" * 3000}),
                            "[" * 40_000):
                told = len([t for t in caller.told if t["type"] == "error"])
                caller.channel.send(message)
                await until(lambda told=told: len([t for t in caller.told if t["type"] == "error"]) == told + 1, 10)
            await caller.close()
            await until(lambda: not server.sessions, 15)
            await until(lambda: threading.active_count() <= before + 8, 15)  # what is left are the loop's own workers

        with_server(assets, talk)

    again_if_late(run)


def test_pictures_that_cannot_be_sent_in_time_are_left_out_not_late() -> None:
    async def taken(kind: str) -> list[int]:
        track = PairTrack(kind)
        for number in range(20):
            track.put(number)
        return [await track.recv() for _ in range(WAITING[kind])]

    assert asyncio.run(taken("video")) == [18, 19]  # two pictures are 80 ms
    assert asyncio.run(taken("audio")) == list(range(14, 20))  # six pieces are 120 ms


def test_a_lost_peer_and_a_refused_offer_leave_nothing(assets: Path) -> None:
    async def come_and_go(server: LiveServer, address: str, client: aiohttp.ClientSession) -> tuple[int, int]:
        counts = []
        for round_ in range(3):
            caller = Caller(None)
            assert (await caller.call(client, address))[0] == 200
            await until(lambda caller=caller: len(caller.pictures) > 2)
            await caller.close()
            await until(lambda: not server.sessions, 15)
            for body in BROKEN_OFFERS:
                async with client.post(f"{address}/offer", data=body) as answer:
                    assert answer.status in (400, 413), (body[:40], answer.status)
                    assert list(await answer.json()) == ["error"]
            async with client.post(f"{address}/offer", json={"sdp": "v=0", "portrait": "nobody"}) as answer:
                assert "no such portrait; choose one of demo, second" in (await answer.json())["error"]
            assert not server.sessions
            if round_:
                counts.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
        return counts

    first, last = with_server(assets, come_and_go)
    assert last[0] <= first[0] + 1 and last[1] <= first[1] + 2


def test_a_peer_that_goes_without_a_word_or_never_comes_is_freed_within_ten_seconds(assets: Path) -> None:
    async def vanish(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(None)
        assert (await caller.call(client, address))[0] == 200
        await until(lambda: len(caller.pictures) > 2)
        await asyncio.sleep(9)
        assert len(server.sessions) == 1  # one that only listens stays
        for receiver in caller.peer.getReceivers():
            await receiver.transport.transport._connection.close()  # its sockets: no goodbye leaves it
        await until(lambda: not server.sessions, 10)
        await caller.close()
        never = Caller(None)
        await never.peer.setLocalDescription(await never.peer.createOffer())
        async with client.post(f"{address}/offer", json={"sdp": never.peer.localDescription.sdp}) as answer:
            assert answer.status == 200
        await never.close()
        await until(lambda: not server.sessions, 10)

    with_server(assets, vanish)


def test_an_offer_whose_connection_would_fail_later_is_refused_at_once(assets: Path) -> None:
    async def offer(server: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        caller = Caller(None)
        await caller.peer.setLocalDescription(await caller.peer.createOffer())
        sdp = caller.peer.localDescription.sdp
        lines = sdp.split("\r\n")
        for broken in (
                "\r\n".join(x for x in lines if not x.startswith("a=fingerprint")), "\r\n".join(x for x in lines if "ice-ufrag" not in x),
                sdp.replace("a=mid:1", "a=mid:7"), sdp.replace("a=mid:1", "a=mid:0"), "\r\n".join(lines[:4])):
            async with client.post(f"{address}/offer", json={"sdp": broken}) as answer:
                assert answer.status == 400 and "no offer that can be answered" in (await answer.json())["error"], broken
            assert not server.sessions
        await caller.close()

    with_server(assets, offer)


def test_only_its_own_page_and_who_knows_the_token_come_in(assets: Path) -> None:
    async def knock(_: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        async with client.get(f"{address}/portraits") as answer:
            assert answer.status == 401
        async with client.get(f"{address}/portraits?token=s3cret") as answer:
            assert await answer.json() == ["demo", "second"]
        foreign = {"Authorization": "Bearer s3cret", "Origin": "http://evil.example"}
        async with client.get(f"{address}/portraits", headers=foreign) as answer:
            assert answer.status == 403
        async with client.get(f"{address}/healthz") as answer:
            assert (await answer.json())["ok"]
        async with client.get(f"{address}/page/../server.py") as answer:
            assert answer.status in (401, 404)

    with_server(assets, knock, token="s3cret")
    with pytest.raises(InputError, match="needs a token"):
        ServeOptions(host="0.0.0.0").check()
    with pytest.raises(InputError, match="no STUN or TURN"):
        ServeOptions(ice=("example.com",)).check()
    with pytest.raises(InputError, match="choose one of parrot"):
        agent_named("nobody")


def test_a_picture_of_ones_own(assets: Path) -> None:
    async def upload(_: LiveServer, address: str, client: aiohttp.ClientSession) -> None:
        async with client.post(f"{address}/portraits", data=(assets / "portraits" / "third.jpg").read_bytes()) as answer:
            name = (await answer.json())["name"]
        caller = Caller(None)
        assert (await caller.call(client, address, name))[0] == 200
        await until(lambda: len(caller.pictures) > 1)
        await caller.close()
        for data, words in ((b"", "picture"), (b"GIF89a" + b"\0" * 40, "picture"), (bytes(LARGEST_UPLOAD + 10), "at most")):
            async with client.post(f"{address}/portraits", data=data) as answer:
                body = await answer.json()
                assert answer.status in (400, 413) and words in body["error"] and "/tmp" not in body["error"], body

    with_server(assets, upload)


@pytest.fixture
def address(assets: Path) -> Iterator[str]:
    """A server in a thread, for a browser."""
    loop, found = asyncio.new_event_loop(), []

    async def begin() -> web.AppRunner:
        runner = web.AppRunner(served(assets, ServeOptions(port=0)).app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.append(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")  # type: ignore[union-attr]
        return runner

    runner = loop.run_until_complete(begin())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield found[0]
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
def test_in_a_browser_one_speaks_is_answered_and_interrupts(address: str, voice: Path, tmp_path: Path) -> None:
    with Browser(tmp_path, voice) as page:
        page.open(address)
        page.wait("document.querySelectorAll('[data-testid=portrait] option').length == 2")
        page.click("start")
        page.wait("document.querySelector('[data-testid=video]').videoWidth == 96", 60)
        page.wait("document.getElementById('state').textContent == 'Speaking'", 60)
        assert "You:" in page.run("document.querySelector('[data-testid=transcript]').innerText")
        page.click("interrupt")
        page.wait("document.querySelector('[data-testid=transcript]').innerText.includes('interrupted after')", 20)
        page.wait("document.getElementById('state').textContent == 'Listening'", 20)
        page.run("document.querySelector('[data-testid=text]').value = 'Hello'")
        page.click("send")
        page.wait("document.querySelector('[data-testid=transcript]').innerText.includes('Hello')", 20)
        page.click("stop")
        assert page.run("document.getElementById('state').textContent") == "Not connected"
        assert page.problems() == []
