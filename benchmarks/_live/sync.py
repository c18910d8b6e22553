"""Sound against picture as received: claps in an aiortc peer and in Chromium, for minutes or an hour, with delay and memory.

In the aiortc peer the stamps are brought to one clock by the sender's reports, as a player does; in Chromium it is when a frame is
to be shown against when a sample is played.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks._common import Reporter, Result, result, say
from benchmarks._live.browser_probe import ProbedBrowser
from benchmarks._live.callers import until
from benchmarks._live.claps import Clap, ClapWatch
from benchmarks._live.serving import Served, model_options
from benchmarks._live.voices import phrase

SIZE, MINUTES, BROWSER_S = 320, 1.0, 40.0
MIDDLE_S, LATE_S, MAX_DRIFT_S, MAX_GROWTH_MB, MAX_HELD = 0.02, 0.06, 0.04, 10.0, 0.005
LOOKED_AT = (1, 10, 60)  # minutes
WORD_EVERY_S = 15.0  # a phrase is spoken, and answered, so that it is a conversation


@dataclass(frozen=True, kw_only=True)
class Listened:
    """What a peer came to: claps; when it began; server memory by seconds; pairs and those held; pictures received."""

    claps: list[Clap]
    began: float
    memory: list[tuple[float, float]]
    pairs: int
    held: int
    pictures: int
    delays: list[tuple[float, float]]  # seconds since it began, from taken to arrived


def sync_rows(weights: Path | None, device: str, minutes: float = MINUTES, browser_s: float = BROWSER_S) -> list[Result]:
    """An aiortc peer for so many minutes, then Chromium."""
    with Served("--size", str(SIZE), "--clap", *model_options(weights, device)) as server:
        heard = asyncio.run(listened(server, 60 * minutes))
    rows = [*sync_figures("aiortc", heard.claps, heard.began, minutes), *_long_figures(heard, minutes)]
    with Served("--size", str(SIZE), "--clap", *model_options(weights, device)) as server, ProbedBrowser(server) as page:
        page.start()
        offsets = page.claps(browser_s)
    return [*rows, *_offset_rows("Chromium", offsets)]


async def listened(server: Served, seconds: float, *, token: str | None = None) -> Listened:
    """A conversation with claps."""
    watch, memory, tell = ClapWatch(), [], Reporter(total_s=seconds)
    async with aiohttp.ClientSession() as client:
        status, body = await watch.caller.call(client, server.address, token)
        assert status == 200, body
        await until(lambda: watch.pictures > 0)
        began = time.monotonic()
        spoke = began
        while (now := time.monotonic()) - began < seconds:
            memory.append((now - began, server.held().rss_mb))
            if now - spoke > WORD_EVERY_S:
                spoke = now
                watch.caller.microphone.speak(phrase(1.2))
            tell(now - began)
            await asyncio.sleep(1.0)
        await watch.caller.close()
    pairs = server.events("pair", since=began)
    return Listened(
        claps=watch.claps, began=began, memory=memory, pairs=len(pairs), held=sum(e["held"] for e in pairs), pictures=watch.pictures,
        delays=_delays(pairs, watch.claps, began))


def _delays(pairs: Sequence[dict[str, Any]], claps: Sequence[Clap], began: float) -> list[tuple[float, float]]:
    taken = np.array([e["t"] for e in pairs if e["clap"]])
    found = []
    for clap in claps:
        before = taken[taken <= clap.arrived]
        if len(before):
            found.append((clap.arrived - began, clap.arrived - float(before[-1])))
    return found


def sync_figures(who: str, claps: Sequence[Clap], began: float, minutes: float) -> list[Result]:
    """Of the minutes that are looked at, and of all claps by arrival on the wire."""
    rows = []
    for minute in [m for m in LOOKED_AT if m <= max(1.0, minutes)]:
        inside = [c.by_reports_s for c in claps if minute - 1 <= (c.arrived - began) / 60 < minute and c.by_reports_s is not None]
        rows += _offset_rows(f"{who}, minute {minute}", inside)
    wire = [abs(c.by_arrival_s) for c in claps]
    return [*rows, result(f"{who}: the same by arrival on the wire, median", float(np.median(wire)) if wire else float("nan"), "s")]


def _offset_rows(who: str, offsets: Sequence[float]) -> list[Result]:
    if not offsets:
        return [result(f"{who}: claps seen and heard", 0, "", ">= 1", False)]
    off = np.abs(offsets)
    middle, late = float(np.median(off)), float(np.percentile(off, 95))
    say(f"  {who}: sound after picture {', '.join(f'{1000 * o:+.0f}' for o in offsets[:40])} ms")
    return [
        result(f"{who}: claps seen and heard", len(offsets), "", ">= 1", True),
        result(f"{who}: sound against picture, median", middle, "s", f"<= {MIDDLE_S:g} s", middle <= MIDDLE_S),
        result(f"{who}: the same, p95", late, "s", f"<= {LATE_S:g} s", late <= LATE_S)]


def _long_figures(heard: Listened, minutes: float) -> list[Result]:
    share = heard.held / max(1, heard.pairs)
    lost = max(0, heard.pairs - heard.pictures) / max(1, heard.pairs)
    rows = [
        result("server's pairs without a new frame", share, "share", f"<= {MAX_HELD:g}", share <= MAX_HELD),
        result("pairs whose picture was not received", lost, "share", f"<= {MAX_HELD:g}", lost <= MAX_HELD),
        result("taken to arrived, median", float(np.median([d for _, d in heard.delays] or [np.nan])), "s")]
    if minutes < 2:
        return rows
    first = float(np.median([d for t, d in heard.delays if t < 60]))
    last = float(np.median([d for t, d in heard.delays if t >= 60 * (minutes - 1)]))
    settled = max(mb for t, mb in heard.memory if t <= 60)
    growth = max(mb for _, mb in heard.memory) - settled
    return [
        *rows,
        result(f"delay of minute {minutes:g} against minute 1", abs(last - first), "s", f"<= {MAX_DRIFT_S:g} s",
               abs(last - first) <= MAX_DRIFT_S),
        result("server's memory after the first minute: growth", growth, "MB", f"<= {MAX_GROWTH_MB:g} MB", growth <= MAX_GROWTH_MB)]
