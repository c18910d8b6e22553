"""Chromium on the page of a live server, with a probe of what it shows and plays; times are the page's, in seconds."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._common import write_wav
from benchmarks._live.serving import Served
from benchmarks._live.voices import RATE
from parity.chromium import CHROMIUM, Browser
from tm_core.errors import InputError
from tm_core.media.audio_io import Waveform

PROBE = Path(__file__).with_name("probe.js")
TONE, WHITE, TOGETHER_S, PURE = 0.15, 200.0, 0.6, 0.6  # a tone's level; a white frame's; of the same clap; share of the level at the tone
APART_S = 1.0  # between two claps
MEET_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Frames: when each is to be shown (T,) and its grey pixels (T, 384); levels (n, 3): when played, loudness, loudness at the tone."""

    shown_s: np.ndarray
    pixels: np.ndarray
    microphone: np.ndarray
    far: np.ndarray


class ProbedBrowser:
    """A context manager; InputError without Chromium."""

    def __init__(self, server: Served, microphone: np.ndarray | None = None) -> None:
        """`microphone` (n,) at RATE, once from when the page asks for it."""
        if CHROMIUM is None:
            raise InputError("bench live", "chromium", "is not installed", "install it (Debian: chromium), or choose other parts")
        self._server, self._folder = server, Path(tempfile.mkdtemp(prefix="tm-bench-"))
        samples = np.zeros(RATE * 60, np.float32) if microphone is None else microphone
        self.page = Browser(self._folder, write_wav(self._folder / "voice.wav", Waveform(samples=samples, sample_rate=RATE)))

    def start(self, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> None:
        """Press start; what is probed is this part of the frame (left, top, right, bottom; 0..1)."""
        page = self.page
        page.call("Page.addScriptToEvaluateOnNewDocument", source=PROBE.read_text() + f"\ntmProbe.box = {list(box)};")
        page.open(self._server.address)
        page.wait("document.querySelectorAll('[data-testid=portrait] option').length > 0")
        page.click("start")
        page.wait("tmProbe.frames.length > 5 && tmProbe.far.length > 5", MEET_S)

    def probed(self) -> Probed:
        """All since the last time it was asked, on the clock of frames: samples are heard when they leave the output."""
        found = self.page.run(
            "(() => { const p = tmProbe, out = JSON.stringify({ frames: p.frames, mic: p.mic, far: p.far, clock: p.clock });"
            " p.frames = []; p.mic.length = 0; p.far.length = 0; return out; })()")
        return parsed(found)

    def claps(self, seconds: float) -> list[float]:
        """Sound minus picture of the claps of so long, in seconds."""
        self.probed()
        parts = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(min(10.0, max(0.1, ends - time.monotonic())))
            parts.append(self.probed())
        shown, far = np.concatenate([p.shown_s for p in parts]), np.concatenate([p.far for p in parts])
        return clap_offsets(shown, np.concatenate([p.pixels for p in parts]).mean(1), far)

    def __enter__(self) -> ProbedBrowser:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.__exit__()
        shutil.rmtree(self._folder, ignore_errors=True)


def parsed(text: str) -> Probed:
    """Of the probe's JSON."""
    import json

    found = json.loads(text)
    ahead = found["clock"]["performanceTime"] / 1000 - found["clock"]["contextTime"]
    levels = {name: np.array(found[name], np.float64).reshape(-1, 3) + np.array([ahead, 0, 0]) for name in ("mic", "far")}
    frames = found["frames"]
    return Probed(
        shown_s=np.array([t for t, _ in frames], np.float64) / 1000, pixels=np.array([p for _, p in frames], np.float64).reshape(-1, 384),
        microphone=levels["mic"], far=levels["far"])


def clap_offsets(shown_s: np.ndarray, grey: np.ndarray, far: np.ndarray) -> list[float]:
    """Sound minus picture of each clap: frames at (T,) with mean grey (T,), levels (n, 3)."""
    white = _onsets(shown_s, grey > WHITE)
    loudness = np.maximum(far[:, 1] * np.sqrt(2), 1e-6)
    tones = _onsets(far[:, 0], (far[:, 2] > TONE) & (far[:, 2] > PURE * loudness))
    found = [float(tones[np.argmin(np.abs(tones - w))] - w) for w in white] if len(tones) else []
    return [f for f in found if abs(f) < TOGETHER_S]


def _onsets(times: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Times at which something is there and was not for a while before."""
    found: list[float] = []
    last = -np.inf
    for t in times[there]:
        if t - last > APART_S:
            found.append(float(t))
        last = float(t)
    return np.array(found)
