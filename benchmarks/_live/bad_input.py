"""Malformed offers, messages, uploads and sounds of odd rates: one clear answer each, no traceback in the log, a server that lives.

A clear answer is one line of JSON (HTTP), one message of type error (control channel), or one InputError (the live avatar alone).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks._common import Result, demo_portrait, load, result, say
from benchmarks._live.callers import Caller, until
from benchmarks._live.serving import Served, model_options
from tm_core import talk
from tm_core.errors import InputError
from tm_core.live.avatar import AvatarOptions, LiveAvatar
from tm_core.media.image_io import open_image

COUNTS = {"offers": 180, "messages": 120, "uploads": 80, "packets": 40, "sounds": 80}
SEED = 15
ANSWER_S = 30.0
LONGEST_LINE = 400
FREED_S = 15.0  # an offer that could be answered and whose peer never comes


def badinput_rows(weights: Path | None, device: str, share: float = 1.0) -> list[Result]:
    """Figures of all kinds; `share` of the counts."""
    counts = {name: max(4, round(share * count)) for name, count in COUNTS.items()}
    with Served("--size", "96", "--sessions", "2", *model_options(weights, device)) as server:
        rows = asyncio.run(_all(server, counts))
        log = server.log()
    rows += _verdict("sounds of odd rates and shapes", *odd_sounds(weights, device, counts["sounds"]))
    tracebacks = log.count("Traceback")
    if tracebacks:
        say(log[-3000:])
    return [*rows, result("tracebacks in the server's log", tracebacks, "", "= 0", not tracebacks)]


def _verdict(what: str, given: int, unclear: list[str]) -> list[Result]:
    for line in unclear[:5]:
        say(f"  {what}: {line}")
    return [result(f"{what}: given", given, ""), result(f"{what}: without one clear answer", len(unclear), "", "= 0", not unclear)]


async def _all(server: Served, counts: dict[str, int]) -> list[Result]:
    rng, rows = random.Random(SEED), []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_S)) as client:
        rows += _verdict("offers", *await _offers(server, client, rng, counts["offers"]))
        rows += _verdict("uploads", *await _uploads(server, client, rng, counts["uploads"]))
        caller = Caller()
        status, _ = await caller.call(client, server.address)
        assert status == 200
        await until(lambda: len(caller.pictures) > 3 and caller.channel.readyState == "open")
        rows += _verdict("messages", *await _messages(caller, rng, counts["messages"]))
        rows += _verdict("packets of a microphone", *await _packets(caller, rng, counts["packets"]))
        async with client.get(f"{server.address}/healthz") as answer:
            ok = server.alive() and bool((await answer.json())["ok"])
        await caller.close()
    return [*rows, result("the server lives", str(ok), "", "= True", ok)]


def _open_sessions(server: Served) -> int:
    import urllib.request

    with urllib.request.urlopen(f"{server.address}/healthz", timeout=ANSWER_S) as answer:
        return int(json.load(answer)["sessions"])


# -- HTTP -----------------------------------------------------------------------------------------------------------------


async def _offers(server: Served, client: aiohttp.ClientSession, rng: random.Random, count: int) -> tuple[int, list[str]]:
    caller = Caller()
    sdp = await caller.offer()
    await caller.close()
    unclear: list[str] = []
    statuses: dict[int, int] = {}
    freed = True
    for i in range(count):
        body = (_malformed_sdp if i % 4 == 0 else _malformed_json)(rng, sdp)
        status, problem = await _posted(client, f"{server.address}/offer", body, fine={200})
        statuses[status] = statuses.get(status, 0) + 1
        if status == 200:  # it could be answered all the same: nobody comes, and the next offer finds room again
            freed &= await until(lambda: _open_sessions(server) == 0, FREED_S)
        unclear += [f"{problem}: {body[:120]!r}"] if problem else []
    say(f"  offers: {statuses}")
    return count, unclear + ["an offer that was answered kept its session"] * (not freed)


def _malformed_json(rng: random.Random, sdp: str) -> bytes:
    whole = json.dumps({"sdp": sdp, "portrait": "demo"}).encode()
    return rng.choice([
        lambda: rng.randbytes(rng.randrange(1, 400)),
        lambda: whole[: rng.randrange(len(whole))],
        lambda: json.dumps(rng.choice([[], 5, None, "sdp", {}, {"sdp": None}, {"SDP": sdp}, [{"sdp": sdp}], {"sdp": {}}])).encode(),
        lambda: json.dumps({"sdp": "v=0", "portrait": rng.choice([5, None, [], "../../etc/passwd", "x" * 10_000, "\0"])}).encode(),
        lambda: b'{"sdp": ' * rng.randrange(1, 30_000),
        lambda: b"[" * 100_000,
        lambda: b"",
    ])()


def _malformed_sdp(rng: random.Random, sdp: str) -> bytes:
    """A real offer in which lines are gone, doubled, swapped or overwritten."""
    lines = sdp.split("\r\n")
    for _ in range(rng.choice([1, 4, 10])):
        at = rng.randrange(len(lines))
        line = lines[at]
        what = rng.randrange(6)
        if what == 0:
            lines = lines[:at] or [""]
        elif what == 1:
            lines[at] = line[: rng.randrange(len(line) + 1)]
        elif what == 2:
            lines[at] = "".join(rng.choice("=: /0aZ\t\u00e9\u2028") if rng.random() < 0.2 else c for c in line)
        elif what == 3:
            words = line.split(" ")
            words[rng.randrange(len(words))] = str(rng.choice([-1, 2**40, "x", "", 1e9]))
            lines[at] = " ".join(words)
        elif what == 4:
            lines = [x for x in lines if not x.startswith(line[:6])] or [""]
        else:
            lines.insert(at, rng.choice(lines))
    return json.dumps({"sdp": "\r\n".join(lines)}).encode()


async def _uploads(server: Served, client: aiohttp.ClientSession, rng: random.Random, count: int) -> tuple[int, list[str]]:
    picture = demo_portrait().read_bytes()
    unclear: list[str] = []
    for _ in range(count):
        data = rng.choice([
            lambda: rng.randbytes(rng.randrange(0, 5000)),
            lambda: picture[: rng.randrange(len(picture) // 2)],
            lambda: picture[:2] + rng.randbytes(3000),
            lambda: b"\x89PNG\r\n\x1a\n" + rng.randbytes(200),
            lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9999999' height='9999999'/>",
            lambda: b"P6 100000 100000 255\n" + bytes(100),
            lambda: bytes(13 * 2**20) if rng.random() < 0.1 else b"GIF89a" + bytes(rng.randrange(90)),
        ])()
        status, problem = await _posted(client, f"{server.address}/portraits", data, fine=set())
        unclear += [f"{status} {problem}: {len(data)} bytes, {data[:20]!r}"] if problem else []
    return count, unclear


async def _posted(client: aiohttp.ClientSession, address: str, body: bytes, *, fine: set[int]) -> tuple[int, str]:
    """Status, and what is wrong with the answer; '' for one clear line."""
    try:
        async with client.post(address, data=body) as answer:
            text, status = await answer.text(), answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        return 0, f"no answer ({type(error).__name__})"
    try:
        said: Any = json.loads(text)
    except ValueError:
        return status, f"{status} without JSON: {text[:80]!r}"
    if status in fine or (400 <= status < 500 and list(said) == ["error"] and _one_line(said["error"])):
        return status, ""
    return status, f"{status} {text[:120]!r}"


def _one_line(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= LONGEST_LINE and "\n" not in text and "Traceback" not in text


# -- a session ------------------------------------------------------------------------------------------------------------


async def _messages(caller: Caller, rng: random.Random, count: int) -> tuple[int, list[str]]:
    unclear: list[str] = []
    for _ in range(count):
        message: Any = rng.choice([
            lambda: rng.randbytes(rng.randrange(1, 300)),
            lambda: "".join(chr(rng.randrange(32, 0xD000)) for _ in range(rng.randrange(1, 200))),
            lambda: json.dumps(rng.choice([[], 5, None, "text", {}, {"type": None}, {"type": []}, {"type": {"type": "text"}}])),
            lambda: json.dumps({"type": rng.choice(["text", "Text", "shout", "x" * 5000])}),
            lambda: json.dumps({"type": "text", "text": rng.choice([5, None, [], "", "x" * rng.randrange(2001, 20_000)])}),
            lambda: "[" * rng.randrange(1, 40_000),
        ])()
        before = _errors(caller)
        caller.channel.send(message)
        await until(lambda before=before: len(_errors(caller)) > len(before), ANSWER_S / 3)
        told = _errors(caller)[len(before) :]
        if len(told) != 1 or not _one_line(told[0]):
            unclear.append(f"{told!r:.120} to {message[:60]!r}")
    return count, unclear


def _errors(caller: Caller) -> list[str]:
    return [str(m["text"]) for _, m in caller.told if m["type"] == "error"]


async def _packets(caller: Caller, rng: random.Random, count: int) -> tuple[int, list[str]]:
    """Junk where Opus is expected: nobody answers a packet, but the session goes on."""
    sender: Any = caller.peer.getSenders()[0]
    encoder: Callable[..., Any] | None = None
    await until(lambda: sender._RTCRtpSender__encoder is not None, 5)
    encoder = sender._RTCRtpSender__encoder
    real = encoder.encode  # type: ignore[union-attr]
    left = iter(range(count))

    def junk(frame: Any, force: bool = False) -> Any:
        payloads, stamp = real(frame, force)
        return ([rng.randbytes(rng.randrange(1, 400))], stamp) if payloads and next(left, None) is not None else (payloads, stamp)

    encoder.encode = junk  # type: ignore[union-attr]
    await until(lambda: next(left, None) is None, 10)
    await asyncio.sleep(0.5)
    shown = len(caller.pictures)
    goes_on = await until(lambda: len(caller.pictures) > shown + 5, 10)
    return count, [] if goes_on else ["the session did not go on"]


# -- the avatar alone -----------------------------------------------------------------------------------------------------


def odd_sounds(weights: Path | None, device: str, count: int) -> tuple[int, list[str]]:
    """Sounds that no voice has, pushed to a live avatar; those that it can use are no mistake."""
    model, rng = load(weights, device), random.Random(SEED)
    unclear: list[str] = []
    with LiveAvatar(model, talk.prepare_portrait(open_image(demo_portrait()), model.config), AvatarOptions(size=96)) as avatar:
        for i in range(count):
            rate = rng.choice([0, -16000, 1, 7999, 192_001, 10**9, 11_025, 44_100, 37_800, 96_000])
            samples = rng.choice([
                np.zeros(160, np.float32), np.zeros(0, np.float32), np.full(160, np.nan, np.float32), np.zeros((2, 160), np.float32),
                np.zeros(160, np.int16), np.full(160, 1e30, np.float32)])
            odd = not 8000 <= rate <= 192_000 or samples.ndim != 1 or not np.isfinite(samples).all()
            try:
                avatar.push_audio(samples, rate)
                problem = "was taken" if odd else ""
            except InputError as error:
                problem = "" if odd and _one_line(str(error)) else f"{error}"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            avatar.interrupt()
            unclear += [f"{problem}: {rate} Hz, {samples.dtype} {samples.shape}"] if problem else []
            if i % 20 == 0:
                avatar.take()
        avatar.take()  # it still shows something
    return count, unclear
