"""A conversation opened from a graph: page and signalling under the real ComfyUI, a real peer, gone with the user's interrupt.

The host's environment has no WebRTC, as most users' has none; one with it is a host of its own, given the development environment's.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from aiortc import RTCPeerConnection, RTCSessionDescription

from parity.chromium import CHROMIUM, Browser
from parity.comfyui import Host, Installation


def with_requirements(name: str, known: set[str]) -> set[str]:
    """A package and all that it requires, without what `known` has."""
    if name in known:
        return set()
    found = {name}
    for line in metadata.requires(name) or ():
        if "extra ==" not in line:
            found |= with_requirements(re.split(r"[^\w.-]", line)[0].lower(), known | found)
    return found


@pytest.fixture(scope="module")
def talking_host(host_installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host in whose environment somebody ran `pip install aiortc`."""
    packages = tmp_path_factory.mktemp("packages")
    for name in with_requirements("aiortc", {"av", "numpy", "typing-extensions"}):
        for file in metadata.files(name) or ():
            top = packages / file.parts[0]
            if file.parts[0] != ".." and not top.exists():
                top.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0])
    with Host(tmp_path_factory.mktemp("talking"), host_installation, packages=packages) as running:
        yield running


def graph(host: Host, assets: Path) -> dict[str, Any]:
    host.upload(assets / "portraits" / "demo.jpg", "live_demo.jpg")
    return {
        "1": {"class_type": "TM_LoadModel", "inputs": {"weights": "bundled", "device": "auto", "dtype": "auto"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "live_demo.jpg"}},
        "3": {"class_type": "TM_FaceMask", "inputs": {"model": ["1", 0], "image": ["2", 0], "face": -1, "strict": False}},
        "4": {"class_type": "TM_LiveConversation", "inputs": {
            "model": ["1", 0], "portrait": ["3", 0], "agent": "parrot", "size": 96, "minutes": 0.0}},
    }


def opened(host: Host, seconds: float = 60) -> str:
    """The address that the node shows, from the log."""
    ends = time.monotonic() + seconds
    while not (found := re.findall(r"open (http://\S+/talking_machines/live/\S+/) in a browser", host.log(400))):
        assert time.monotonic() < ends, host.log()
        time.sleep(0.1)
    return str(found[-1])


async def seen(address: str) -> int:
    """Frames that a peer gets of a session in a room."""
    peer, pictures = RTCPeerConnection(), 0
    peer.addTransceiver("audio", direction="recvonly")
    peer.addTransceiver("video", direction="recvonly")
    track: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    peer.on("track", lambda t: track.set_result(t) if t.kind == "video" else None)
    async with aiohttp.ClientSession() as client:
        await peer.setLocalDescription(await peer.createOffer())
        async with client.post(f"{address}offer", json={"sdp": peer.localDescription.sdp}) as answer:
            assert answer.status == 200, await answer.text()
            await peer.setRemoteDescription(RTCSessionDescription(sdp=(await answer.json())["sdp"], type="answer"))
        video = await asyncio.wait_for(track, 20)
        for _ in range(5):
            frame = await asyncio.wait_for(video.recv(), 20)
            assert frame.to_ndarray(format="rgb24").shape == (96, 96, 3)
            pictures += 1
        health = await (await client.get(f"{address}healthz")).json()
        assert health == {"ok": True, "sessions": 1, "most_sessions": 1}
    await peer.close()
    return pictures


def test_without_the_package_the_node_says_what_to_install(host: Host, assets: Path) -> None:
    job = host.run(graph(host, assets))
    assert job.status == "error" and "Live Conversation: aiortc: is not installed; run: pip install aiortc" in job.error


def in_browser(address: str, folder: Path, voice: Path) -> None:
    """The page as a person opens it, until the portrait is seen; then it is stopped."""
    with Browser(folder, voice) as page:
        page.open(address)
        page.wait("document.querySelectorAll('[data-testid=portrait] option').length == 1")
        page.wait("document.getElementById('still').naturalWidth > 0")
        page.click("start")
        page.wait("document.querySelector('[data-testid=video]').videoWidth == 96", 60)
        page.click("stop")


def test_a_conversation_lasts_as_long_as_its_node(talking_host: Host, assets: Path, tmp_path: Path) -> None:
    host = talking_host
    prompt = host.queue(graph(host, assets))
    address = opened(host)
    page = requests.get(address, timeout=10)
    assert page.ok and 'data-testid="start"' in page.text
    for text in (page.text, requests.get(f"{address}page/live.js", timeout=10).text):
        assert not re.search(r"""["'`(]/(page|portraits|offer|healthz|metrics)""", text), "an address that is the host's, not the room's"
    assert requests.get(f"{address}page/live.js", timeout=10).ok
    assert requests.get(f"{address}portraits", timeout=10).json() == ["portrait"]
    assert requests.get(f"{address}portraits/portrait", timeout=10).content[:2] == b"\xff\xd8"
    foreign = requests.get(f"{address}portraits", headers={"Origin": "http://evil.example"}, timeout=10)
    assert foreign.status_code == 403
    assert requests.get(re.sub(r"live/[^/]+/", "live/guessed/", address), timeout=10).status_code == 404
    if CHROMIUM is not None:
        in_browser(address, tmp_path, next((assets / "speech").glob("*.wav")))
        ends = time.monotonic() + 20
        while requests.get(f"{address}healthz", timeout=10).json()["sessions"]:
            assert time.monotonic() < ends, "a session outlives its page's Stop"
            time.sleep(0.1)
    assert asyncio.run(seen(address)) == 5
    host.interrupt()
    ends = time.monotonic() + 15
    while requests.get(address, timeout=10).status_code != 404:
        assert time.monotonic() < ends, "the room outlives its node"
        time.sleep(0.1)
    while prompt not in (history := host.get(f"/history/{prompt}")):
        assert time.monotonic() < ends + 10, json.dumps(history)[:500]
        time.sleep(0.1)
    assert "interrupted" in json.dumps(history[prompt]["status"])
