"""The server of `serve` with what is measured of it: a line of JSON for each pair, each loud piece of microphone and each interruption.

`python -m benchmarks._live.watched_server FOLDER ...` prints its address and serves until it is ended; FOLDER/events.jsonl has the lines
(`t`: time.monotonic, which processes of a machine share; `s`: the session's number). With --clap three white frames and a tone that
begins with them replace pairs every CLAP_EVERY: what of picture and sound left together can be recognised by whoever receives both.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from aiohttp import web

from benchmarks._common import ASSETS, load
from benchmarks._live.mouths import mouth_box
from tm_core.live.agents import AgentOutput, ParrotAgent
from tm_core.live.avatar import AvatarOptions, Interruption, LiveAvatar, LivePair
from tm_core.live.server import LiveServer, ServeOptions
from tm_core.live.speech_queue import Floats
from tm_core.talk.portrait import Portrait

CLAP_EVERY, CLAP_FRAMES = 50, 3  # pairs
TONE_HZ, TONE_LEVEL = 3000.0, 0.7
LOUD_DB = -40.0


class Events:
    """Lines of one file; every session has a number."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.sessions = itertools.count()

    def tell(self, kind: str, session: int, **values: Any) -> None:
        """One line, at once."""
        self._out.write(json.dumps({"e": kind, "t": time.monotonic(), "s": session, **values}) + "\n")
        self._out.flush()


class WatchedAvatar(LiveAvatar):
    """Says of each pair when it was taken and what is in it."""

    def watch(self, events: Events, number: int, *, clap: bool) -> WatchedAvatar:
        """Before it starts."""
        self._events, self._number, self._clap = events, number, clap
        events.tell("opened", number, mouth=mouth_box(self), size=self.size)
        return self

    def take(self) -> LivePair:
        """The pair, clapped where it is time."""
        pair = super().take()
        at = pair.pts % CLAP_EVERY if self._clap and pair.pts >= CLAP_EVERY else CLAP_EVERY
        if at < CLAP_FRAMES:
            pair = replace(pair, frame=np.full_like(pair.frame, 255), samples=tone(len(pair.samples), at, self.options.sample_rate))
        self._events.tell(
            "pair", self._number, pts=pair.pts, answer=pair.answer, position=round(pair.position_s, 3), held=pair.held,
            sounds=bool(np.abs(pair.samples).max() > 1e-3), clap=at == 0)
        return pair


class WatchedParrot(ParrotAgent):
    """Says when it hears something loud, what it says, and how its interruptions ended."""

    def __init__(self, output: AgentOutput, events: Events, number: int, folder: Path) -> None:
        self._events, self._number, self._folder = events, number, folder
        super().__init__(replace(output, say=self._watched_say(output), interrupt=self._watched_interrupt(output)))

    def _watched_say(self, output: AgentOutput) -> Any:
        def say(samples: Floats, rate: int) -> None:
            name = f"said-{self._number}-{time.monotonic_ns()}.npy"
            np.save(self._folder / name, samples)
            self._events.tell("said", self._number, file=name, rate=rate)
            output.say(samples, rate)

        return say

    def _watched_interrupt(self, output: AgentOutput) -> Any:
        def interrupt() -> Interruption:
            found = output.interrupt()
            self._events.tell("interrupted", self._number, answer=found.answer, position=found.position_s)
            return found

        return interrupt

    async def hear(self, samples: Floats) -> None:
        """As the parrot does."""
        if 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-10) > LOUD_DB:
            self._events.tell("heard", self._number)
        await super().hear(samples)


class WatchedServer(LiveServer):
    """Its sessions are watched."""

    def watch(self, events: Events, *, clap: bool) -> WatchedServer:
        """Before it serves."""
        self._events, self._clap = events, clap
        return self

    def make_avatar(self, portrait: Portrait) -> LiveAvatar:
        """A watched one."""
        return WatchedAvatar(self._model, portrait, self._avatar).watch(self._events, next(self._events.sessions), clap=self._clap)


def tone(count: int, frame: int, rate: int) -> Floats:
    """(n,) of the clap's tone in its `frame`-th pair."""
    at = np.arange(count) + frame * count
    return (TONE_LEVEL * np.sin(2 * np.pi * TONE_HZ * at / rate)).astype(np.float32)


async def _serve(server: WatchedServer, host: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    runner = web.AppRunner(server.app)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    gc.collect()
    gc.freeze()  # as `serve` does
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--token")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clap", action="store_true")
    asked = parser.parse_args()
    numbers = itertools.count()
    with (asked.folder / "events.jsonl").open("w") as out:
        events = Events(out)
        server = WatchedServer(
            load(asked.weights, asked.device), {"demo": ASSETS / "portraits" / "demo.jpg"},
            lambda output: WatchedParrot(output, events, next(numbers), asked.folder),
            options=ServeOptions(host=asked.host, port=0, token=asked.token, most_sessions=asked.sessions, idle_s=7200.0),
            avatar=AvatarOptions(size=asked.size)).watch(events, clap=asked.clap)
        asyncio.run(_serve(server, asked.host))


if __name__ == "__main__":
    main()
