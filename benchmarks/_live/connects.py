"""Many connects and disconnects, some of them broken off: what the server holds afterwards, and how soon it frees a lost peer."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks._common import ROOT, Result, result, say
from benchmarks._live.callers import Caller, until
from benchmarks._live.serving import Held, Served, model_options

COUNTS = {"goodbye": 150, "without a word": 20, "refused offer": 20, "killed process": 10}
WARM_UP = 20
MAX_FREED_S = 10.0
MORE_THREADS, MORE_MB = 4, 10.0  # the loop's own workers come one by one
SETTLED_S = 3.0


def connect_rows(weights: Path | None, device: str, share: float = 1.0) -> list[Result]:
    """All kinds in an order by chance; `share` of their counts."""
    counts = {kind: max(1, round(share * count)) for kind, count in COUNTS.items()}
    with Served("--size", "96", *model_options(weights, device)) as server:
        before, after, freed = asyncio.run(_come_and_go(server, counts))
        log = server.log()
    lost = [s for kind in ("without a word", "killed process") for s in freed[kind]]
    late = max(lost)
    more = after.rss_mb - before.rss_mb
    return [
        result("connects", ", ".join(f"{count} {kind}" for kind, count in counts.items()), ""),
        *(result(f"{name} after them, more than before", now - then, "", f"<= {bar}", now - then <= bar)
          for name, then, now, bar in (
              ("threads", before.threads, after.threads, MORE_THREADS), ("sockets", before.sockets, after.sockets, 0),
              ("files", before.files, after.files, 0))),
        result("memory after them, more than before", more, "MB", f"<= {MORE_MB:g} MB", more <= MORE_MB),
        result("a session after its peer's goodbye is gone, median", float(np.median(freed["goodbye"])), "s"),
        result("a lost peer is freed, worst", late, "s", f"<= {MAX_FREED_S:g} s", late <= MAX_FREED_S),
        result("tracebacks in the server's log", log.count("Traceback"), "", "= 0", "Traceback" not in log)]


async def _come_and_go(server: Served, counts: dict[str, int]) -> tuple[Held, Held, dict[str, list[float]]]:
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(kinds)
    ways: dict[str, Callable[[Served, aiohttp.ClientSession], Awaitable[float]]] = {
        "goodbye": _goodbye, "without a word": _vanished, "refused offer": _refused, "killed process": _killed}
    freed: dict[str, list[float]] = {kind: [] for kind in counts}
    async with aiohttp.ClientSession() as client:
        for _ in range(WARM_UP):
            await _goodbye(server, client)
        await asyncio.sleep(SETTLED_S)
        before = server.held()
        for number, kind in enumerate(kinds):
            freed[kind].append(await ways[kind](server, client))
            if number % 20 == 19:
                say(f"  {number + 1} of {len(kinds)}: {server.held()}")
        await asyncio.sleep(SETTLED_S)
        return before, server.held(), freed


async def _connected(server: Served, client: aiohttp.ClientSession) -> Caller:
    caller = Caller()
    status, body = await caller.call(client, server.address)
    assert status == 200, body
    assert await until(lambda: len(caller.pictures) > 1)
    return caller


async def _until_gone(server: Served, client: aiohttp.ClientSession) -> float:
    """Seconds until no session is left; infinite where that takes a minute."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        async with client.get(f"{server.address}/healthz") as answer:
            if not (await answer.json())["sessions"]:
                return time.monotonic() - began
        await asyncio.sleep(0.05)
    return float("inf")


async def _goodbye(server: Served, client: aiohttp.ClientSession) -> float:
    caller = await _connected(server, client)
    await caller.close()
    return await _until_gone(server, client)


async def _vanished(server: Served, client: aiohttp.ClientSession) -> float:
    caller = await _connected(server, client)
    await caller.vanish()
    took = await _until_gone(server, client)
    await caller.close()
    return took


async def _refused(server: Served, client: aiohttp.ClientSession) -> float:
    caller = Caller()
    sdp = await caller.offer()
    broken = "\r\n".join(line for line in sdp.split("\r\n") if not line.startswith("a=fingerprint"))
    async with client.post(f"{server.address}/offer", data=json.dumps({"sdp": broken})) as answer:
        assert answer.status == 400
    await caller.close()
    return await _until_gone(server, client)


async def _killed(server: Served, client: aiohttp.ClientSession) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks._live.killed_caller", server.address, cwd=ROOT, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    said = await process.stdout.readline()
    assert said.strip() == b"connected"
    process.kill()
    await process.wait()
    return await _until_gone(server, client)
