"""Two conversations at once: the largest picture at which both keep real time, a third that is refused, and nobody hears the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import soxr

from benchmarks._common import Result, result, say
from benchmarks._live.callers import Caller, joined, until
from benchmarks._live.serving import Served, model_options
from benchmarks._live.voices import RATE, other_voice, phrase

SIZES = (320, 256, 192, 128)  # the first one at which both keep real time counts
MAX_HELD, TURNS = 0.02, 3
MIN_OWN, MAX_OTHER = 0.5, 0.1  # correlation with one's own voice; with the other's above what a voice that never was there has
PART_S = 0.4
ANSWER_S = 20.0


@dataclass(frozen=True, kw_only=True)
class TwoHeard:
    """Share of pairs held of each; status and body of the third; best correlation with one's own voice, the other's, nobody's."""

    held: tuple[float, float]
    third: tuple[int, dict[str, Any]]
    own: float
    other: float
    nobody: float


def session_rows(weights: Path | None, device: str, sizes: tuple[int, ...] = SIZES, turns: int = TURNS) -> list[Result]:
    """Of the largest size that allows it, or of the smallest."""
    for size in sizes:
        with Served("--size", str(size), "--sessions", "2", *model_options(weights, device)) as server:
            heard = asyncio.run(_two(server, turns))
        say(f"  {size} px: pairs held {heard.held[0]:.3f}, {heard.held[1]:.3f}")
        if max(heard.held) <= MAX_HELD:
            break
    status, body = heard.third
    line = str(body.get("error", ""))
    refused = status == 503 and 0 < len(line) < 200 and "\n" not in line
    return [
        result("two sessions at once: picture", size, "px"),
        result("pairs without a new frame, the worse session", max(heard.held), "share", f"<= {MAX_HELD:g}", max(heard.held) <= MAX_HELD),
        result("a third one is told", f"{status} {line}", "", "one line", refused),
        result("correlation of what is received with one's own voice, the worse", heard.own, "", f">= {MIN_OWN:g}", heard.own >= MIN_OWN),
        result("with the other's voice, above one that never was there", heard.other - heard.nobody, "", f"<= {MAX_OTHER:g}",
               heard.other - heard.nobody <= MAX_OTHER)]


async def _two(server: Served, turns: int) -> TwoHeard:
    voices = phrase(1.6), other_voice(phrase(1.6, 3.5))
    pictures: list[Any] = []
    callers = [Caller(on_picture=pictures.append, colour=False) for _ in voices]
    async with aiohttp.ClientSession() as client:
        for caller in callers:
            status, body = await caller.call(client, server.address)
            assert status == 200, body
        third = Caller()
        refusal = await third.call(client, server.address)
        await third.close()
        await until(lambda: all(c.sounds for c in callers))
        begins = asyncio.get_running_loop().time()
        for _ in range(turns):
            for caller, voice in zip(callers, voices, strict=True):
                caller.microphone.speak(voice)
                await asyncio.sleep(0.7)  # their turns and answers overlap
            await asyncio.sleep(2.0)
            await until(lambda: all(_answered(c) for c in callers), ANSWER_S)
        for caller in callers:
            await caller.close()
    held = []
    for number in (0, 1):
        pairs = server.events("pair", session=number, since=begins)  # the loop's clock is time.monotonic
        held.append(sum(p["held"] for p in pairs) / max(1, len(pairs)))
    sounds = [soxr.resample(joined(c.sounds), 48000, RATE) for c in callers]
    nobody = max(best_match(v[::-1].copy(), s) for v, s in zip(voices, sounds, strict=True))
    return TwoHeard(
        held=(held[0], held[1]), third=refusal, nobody=nobody,
        own=min(best_match(v, s) for v, s in zip(voices, sounds, strict=True)),
        other=max(best_match(voices[1], sounds[0]), best_match(voices[0], sounds[1])))


def _answered(caller: Caller) -> bool:
    """Whether it was spoken to, and is listened to again."""
    states = [m["state"] for _, m in caller.told if m["type"] == "status"]
    return "speaking" in states and states[-1] == "listening"


def best_match(voice: np.ndarray, sound: np.ndarray) -> float:
    """How well any part of a voice (n,) is found anywhere in a sound (m,): normalised correlation, 0..1."""
    size = round(PART_S * RATE)
    if len(sound) < size:
        return 0.0
    power = np.cumsum(np.pad(sound.astype(np.float64) ** 2, (1, 0)))
    energy, length = power[size:] - power[:-size], len(sound) + size
    spectrum, found = np.fft.rfft(sound, length), 0.0
    floor = 1e-3 * energy.max()  # quiet stretches match anything
    for begin in range(0, len(voice) - size + 1, size // 2):
        part = voice[begin : begin + size].astype(np.float64)
        match = np.fft.irfft(spectrum * np.conj(np.fft.rfft(part, length)), length)[: len(energy)]
        found = max(found, float((match / np.sqrt((energy + floor) * (part**2).sum() + 1e-9)).max()))
    return found
