"""Barge-in by a real peer: how soon the portrait is silent and its mouth shut, and whether the reported position is what was received.

Time begins with the packet of the user's first sound; its own machine's loopback is the network.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import soxr

from benchmarks._common import Result, result, say
from benchmarks._live.callers import Caller, Received, joined, until
from benchmarks._live.mouths import lip_gaps, shut_from
from benchmarks._live.serving import Served, model_options
from benchmarks._live.voices import RATE, STEP_S, loud_steps, phrase

TRIALS, SIZE = 20, 320
MAX_SOUND_S, MAX_MOUTH_S, MAX_POSITION_S = 0.25, 0.4, 0.04
ANSWER_S, BARGE_S = 3.0, 1.0
AFTER_S = 0.9  # in which nothing but the old answer can sound: the new one needs the turn's end
TAIL_S = 0.5  # of the last that was received, looked for in what was said
LOUD = 0.05


@dataclass(frozen=True, kw_only=True)
class BargeIn:
    """Seconds from the user's first packet to: last old pair sent, last old sound received, mouth shut; error of the position."""

    sent_s: float
    received_s: float
    mouth_s: float | None
    position_off_s: float


def bargein_rows(weights: Path | None, device: str, trials: int = TRIALS) -> list[Result]:
    """Percentiles of some interruptions of one session."""
    with Served("--size", str(SIZE), *model_options(weights, device)) as server:
        found = asyncio.run(_talk(server, trials))
    if not found:
        return [result("barge-in: trials that could be measured", 0, f"of {trials}", f"= {trials}", False)]
    sent, received = ([getattr(f, k) for f in found] for k in ("sent_s", "received_s"))
    mouth = [f.mouth_s for f in found if f.mouth_s is not None]
    sent_p95, mouth_p95 = float(np.percentile(sent, 95)), float(np.percentile(mouth, 95)) if mouth else float("nan")
    off = max(f.position_off_s for f in found)
    return [
        result("barge-in: trials that could be measured", len(found), f"of {trials}", f"= {trials}", len(found) == trials),
        result("user's first packet to the last old pair sent, p50", float(np.median(sent)), "s"),
        result("the same, p95", sent_p95, "s", f"<= {MAX_SOUND_S:g} s", sent_p95 <= MAX_SOUND_S),
        result("user's first packet to the last old sound received, p95", float(np.percentile(received, 95)), "s"),
        result(
            "user's first packet to the mouth shut, as received, p95", mouth_p95, "s", f"<= {MAX_MOUTH_S:g} s",
            len(mouth) == len(found) and mouth_p95 <= MAX_MOUTH_S),
        result("mouth seen shut", len(mouth), f"of {len(found)}"),
        result("reported position against what was received, worst", off, "s", f"<= {MAX_POSITION_S:g} s", off <= MAX_POSITION_S)]


async def _talk(server: Served, trials: int) -> list[BargeIn]:
    found, rng = [], np.random.default_rng(0)
    async with aiohttp.ClientSession() as client:
        caller = Caller()
        status, body = await caller.call(client, server.address)
        assert status == 200, body
        await until(lambda: len(caller.pictures) > 50)
        for number in range(trials):
            if (one := await _barged(server, caller, float(rng.uniform(0.9, 1.7)))) is not None:
                found.append(one)
                say(f"  {number + 1}: sent {one.sent_s:.3f}, received {one.received_s:.3f}, mouth {one.mouth_s}, "
                    f"position off {one.position_off_s:.3f} s")
        await caller.close()
    return found


def _state(caller: Caller) -> str:
    return next((str(m["state"]) for _, m in reversed(caller.told) if m["type"] == "status"), "")


async def _barged(server: Served, caller: Caller, after_s: float) -> BargeIn | None:
    """One turn, its answer interrupted `after_s` after it began, and quiet again; None where there was no answer."""
    for kept in (caller.sounds, caller.pictures, caller.told, caller.microphone.spoken):
        kept.clear()
    caller.microphone.speak(phrase(ANSWER_S))
    if not await until(lambda: _state(caller) == "speaking", 20):
        return None
    await asyncio.sleep(after_s)
    said = server.said(0)
    caller.microphone.speak(phrase(BARGE_S, 3.0))
    await until(lambda: len(caller.microphone.spoken) == 2, 5)
    began = caller.microphone.spoken[1][0]
    await asyncio.sleep(began + AFTER_S + 0.3 - asyncio.get_running_loop().time())  # which is time.monotonic
    told = [m for _, m in caller.told if m["type"] == "interrupted"]
    pictures, sounds = list(caller.pictures), list(caller.sounds)
    await until(lambda: _state(caller) == "speaking", 10)  # the answer to the interruption
    await until(lambda: _state(caller) == "listening", 20)
    await asyncio.sleep(1.0)
    return measured(server, began, float(told[0]["position_s"]), said, sounds, pictures) if told else None


def measured(
    server: Served, began: float, position_s: float, said: np.ndarray, sounds: list[Received], pictures: list[Received],
) -> BargeIn | None:
    """Of one interruption that began with a packet at `began`."""
    pairs = [e["t"] for e in server.events("pair", since=began) if e["sounds"] and e["t"] < began + AFTER_S]
    heard = [s for s in sounds if s.arrived < began + AFTER_S]
    whole = soxr.resample(joined(heard), 48000, RATE)
    loud = np.flatnonzero(loud_steps(whole, RATE, LOUD))
    if not len(loud):
        return None
    end = int((loud[-1] + 1) * STEP_S * RATE)
    late = max((s.arrived for s in heard if np.abs(s.data).max() > LOUD * np.abs(whole).max()), default=began)
    cut = sum(p.arrived <= began for p in pictures)
    shown = pictures[: sum(p.arrived <= began + AFTER_S for p in pictures)]
    shut = shut_from(lip_gaps([p.data for p in shown]), cut)
    return BargeIn(
        sent_s=max(pairs, default=began) - began, received_s=late - began,
        mouth_s=None if shut is None else max(0.0, shown[shut].arrived - began),
        position_off_s=position_error(position_s, said, whole[:end]))


def position_error(position_s: float, said: np.ndarray, heard: np.ndarray) -> float:
    """Seconds between a position in what was said (n,) and the end of what was heard (m,), which is a part of it up to there.

    Where the cut lies in a pause of the speech, any position up to the next sound is right.
    """
    tail = heard[-round(TAIL_S * RATE) :]
    end = (place_of(tail, said) + len(tail)) / RATE
    loud = loud_steps(said, RATE, LOUD)
    following = np.flatnonzero(loud[round(end / STEP_S) :])
    latest = end + (following[0] * STEP_S if len(following) else 0.0)
    return max(0.0, end - position_s, position_s - latest)


def place_of(part: np.ndarray, whole: np.ndarray) -> int:
    """Where a part (m,) of a sound is found in it (n,), by normalised correlation."""
    size = len(part) + len(whole)
    match = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size)), size)[: max(1, len(whole) - len(part) + 1)]
    power = np.cumsum(np.pad(whole.astype(np.float64) ** 2, (1, 0)))
    energy = power[len(part) :] - power[: -len(part)] if len(whole) >= len(part) else power[-1:]
    return int(np.argmax(match[: len(energy)] / np.sqrt(energy + 1e-6)))
