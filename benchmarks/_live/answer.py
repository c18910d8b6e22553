"""End of the user's speech to the first sound and lip of the answer, in Chromium with the parrot, turn detection included.

The microphone and what is played are seen by one clock; the lip is where the mouth's pixels move by more than they do in idling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._common import Result, result, say
from benchmarks._live.browser_probe import Probed, ProbedBrowser
from benchmarks._live.mouths import first_move
from benchmarks._live.serving import Served, model_options
from benchmarks._live.voices import RATE, phrase

SIZE, TURNS, MAX_S = 320, 12, 1.2
BEFORE_S, TURN_S, AFTER_S = 6.0, 1.2, 5.0  # silence first, a turn, silence in which it is answered
LOUD, QUIET_S, LONGEST_S, IDLE_S = 0.1, 0.6, 3.5, 0.8


@dataclass(frozen=True, kw_only=True)
class AnsweredTurn:
    """Seconds from the end of a turn; None: not seen."""

    sound_s: float | None
    lip_s: float | None


def answer_rows(weights: Path | None, device: str, turns: int = TURNS) -> list[Result]:
    """Percentiles of some turns of one conversation."""
    turn = np.concatenate([phrase(TURN_S), np.zeros(round(AFTER_S * RATE), np.float32)])
    voice = np.concatenate([np.zeros(round(BEFORE_S * RATE), np.float32), *[turn] * turns])
    with Served("--size", str(SIZE), *model_options(weights, device)) as server, ProbedBrowser(server, voice) as browser:
        browser.start()
        opened = server.events("opened")[-1]
        left, top, right, bottom = np.array(opened["mouth"]) / np.array([*opened["size"], *opened["size"]])
        browser.page.run(f"tmProbe.box = [{left}, {top}, {right}, {bottom}]")
        browser.probed()
        parts = []
        for _ in range(round(len(voice) / RATE / 5) + 1):
            time.sleep(5.0)
            parts.append(browser.probed())
        told = browser.page.run("document.getElementById('latency').textContent")
        pairs = server.events("pair")
    found = answered(Probed(**{k: np.concatenate([getattr(p, k) for p in parts]) for k in ("shown_s", "pixels", "microphone", "far")}))
    held = sum(p["held"] for p in pairs) / max(1, len(pairs))
    rows = [result("turns in Chromium", f"{len(found)} of {turns}", ""), result("the page says at the end", str(told), "")]
    for what, times in (("first sound", [f.sound_s for f in found]), ("first lip", [f.lip_s for f in found])):
        seen = [t for t in times if t is not None]
        say(f"  {what}: {', '.join(f'{t:.2f}' for t in seen)} s")
        p50, p95 = (float(np.percentile(seen, q)) if seen else float("nan") for q in (50, 95))
        rows += [
            result(f"end of the user's speech to the {what} of the answer, p50", p50, "s"),
            result("the same, p95", p95, "s", f"<= {MAX_S:g} s", p95 <= MAX_S and 2 * len(seen) > turns)]
    return [*rows, result("server's pairs held meanwhile", held, "share")]


def answered(seen: Probed) -> list[AnsweredTurn]:
    """Of each turn of the microphone."""
    return [_answered(seen, end) for end in turn_ends(seen.microphone)]


def turn_ends(levels: np.ndarray) -> list[float]:
    """When loud stretches of (n, 3) levels end that are followed by quiet."""
    loud = levels[levels[:, 1] > LOUD * levels[:, 1].max(initial=0.0), 0]
    last = np.flatnonzero(np.diff(loud, append=np.inf) > QUIET_S)
    return [float(loud[i]) for i in last if loud[i] + LONGEST_S < levels[-1, 0]]


def _answered(seen: Probed, end: float) -> AnsweredTurn:
    near = (seen.far[:, 0] > end) & (seen.far[:, 0] < end + LONGEST_S)
    sounds = seen.far[near & (seen.far[:, 1] > LOUD * seen.far[:, 1].max(initial=1e-6)), 0]
    idle = (seen.shown_s > end - IDLE_S) & (seen.shown_s <= end)
    after = (seen.shown_s > end) & (seen.shown_s < end + LONGEST_S)
    mouths = np.concatenate([seen.pixels[idle], seen.pixels[after]])[:, :, None]
    moved = first_move(mouths, int(idle.sum())) if idle.sum() > 2 and after.any() else None
    times = np.concatenate([seen.shown_s[idle], seen.shown_s[after]])
    return AnsweredTurn(
        sound_s=float(sounds[0]) - end if len(sounds) else None, lip_s=None if moved is None else float(times[moved]) - end)
