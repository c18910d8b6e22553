"""A peer on another host: it converses for so long and then says on stdout what it received.

`python -m benchmarks._live.far_caller ADDRESS TOKEN SECONDS`: a line when connected, then one of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

from benchmarks._live.callers import Received, until
from benchmarks._live.claps import ClapWatch
from benchmarks._live.voices import phrase

WORD_EVERY_S = 8.0


class FarWatch(ClapWatch):
    """Notes as well when anything came."""

    def __init__(self) -> None:
        super().__init__()
        self.came: dict[str, list[float]] = {"pictures": [], "sounds": []}

    def _seen(self, picture: Received) -> None:
        self.came["pictures"].append(time.monotonic())
        super()._seen(picture)

    def _heard(self, sound: Received) -> None:
        self.came["sounds"].append(time.monotonic())
        super()._heard(sound)


async def _converse(address: str, token: str, seconds: float) -> None:
    watch = FarWatch()
    async with aiohttp.ClientSession() as client:
        status, body = await watch.caller.call(client, address, token)
        assert status == 200, body
        assert await until(lambda: watch.pictures > 0)
        print("connected", flush=True)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            watch.caller.microphone.speak(phrase(1.2))
            await asyncio.sleep(min(WORD_EVERY_S, max(0.1, ends - time.monotonic())))
        await watch.caller.close()
    claps = [c for c in watch.claps if c.by_reports_s is not None]
    print(json.dumps({
        "by_reports": [c.by_reports_s for c in claps], "by_arrival": [c.by_arrival_s for c in claps],
        "arrived": [c.arrived for c in claps], **watch.came}))


if __name__ == "__main__":
    asyncio.run(_converse(sys.argv[1], sys.argv[2], float(sys.argv[3])))
