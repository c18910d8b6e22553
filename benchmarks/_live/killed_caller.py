"""A peer that connects, says so on stdout and goes on until it is killed: `python -m benchmarks._live.killed_caller ADDRESS`."""

from __future__ import annotations

import asyncio
import sys

import aiohttp

from benchmarks._live.callers import Caller, until


async def _stay(address: str) -> None:
    caller = Caller()
    async with aiohttp.ClientSession() as client:
        status, body = await caller.call(client, address)
        assert status == 200, body
        assert await until(lambda: len(caller.pictures) > 2)
        print("connected", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_stay(sys.argv[1]))
