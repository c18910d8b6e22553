"""Do the phone times fit the sound? Loudness against phones, voice by voice.

Two curves at 200 Hz: the sound's loudness, and how loud its phones usually are (vowels 1, sonorants less, stops
little, pauses 0). Their lag at the best correlation is the error of the phone times. Non-goals: whether it is the
right phone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..visemes import PhoneInterval

RATE, CURVE = 16000, 200
REACH = 50  # samples of the curves searched to either side, 0.25 s
LEVELS = {"M": 0.5, "N": 0.5, "NG": 0.5, "L": 0.6, "R": 0.7, "W": 0.6, "Y": 0.6, "ER": 1.0}
SOFT = 0.15  # every other consonant


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One voice: positive lag means that its phones come late."""

    voice: str
    split: str
    minutes: float
    utterances: int
    trusted: int
    lag_ms: float
    r: float
    silent_share: float  # of the time no phone covers
    loud_outside: float  # share of the sound's energy where no phone is


def expected_loudness(phones: list[PhoneInterval], n: int) -> np.ndarray:
    """(n,) at CURVE Hz."""
    out = np.zeros(n, np.float32)
    for name, start, end in phones:
        level = LEVELS.get(name, 1.0 if name[0] in "AEIOU" else SOFT)
        out[max(0, round(start * CURVE)) : round(end * CURVE)] = level
    return out


def loudness(samples: np.ndarray) -> np.ndarray:
    """(n,) at CURVE Hz, in decibels above a floor 45 dB below the loudest, 0..1."""
    step = RATE // CURVE
    power = np.sqrt((samples[: len(samples) // step * step].reshape(-1, step) ** 2).mean(1)) + 1e-9
    decibel = 20 * np.log10(power / np.percentile(power, 98))
    return np.asarray(np.clip(1 + decibel / 45, 0, 1), np.float32)


def lag(samples: np.ndarray, phones: list[PhoneInterval]) -> tuple[float, float]:
    """(seconds the phones come late, correlation there) of one utterance."""
    sound = gaussian_filter1d(loudness(samples), 4)
    phone = gaussian_filter1d(expected_loudness(phones, len(sound)), 4)
    inner = slice(REACH, len(sound) - REACH)
    scores = [float(np.corrcoef(sound[inner], np.roll(phone, -d)[inner])[0, 1]) for d in range(-REACH, REACH + 1)]
    best = int(np.argmax(scores))
    return (best - REACH) / CURVE, scores[best]


def fit(folder: Path, voice: str) -> Fit:
    """Measure one voice of a corpus."""
    entries = json.loads((folder / f"{voice}.json").read_text())
    with np.load(folder / f"{voice}.npz") as z:
        samples, starts = z["samples"].astype(np.float32) / 32768, z["starts"]
    found, silent, outside, energy = [], 0.0, 0.0, 0.0
    for entry, start, end in zip(entries, starts, [*starts[1:], len(samples)], strict=True):
        part = samples[start:end]
        if len(part) > 2 * RATE:
            found.append(lag(part, entry["phones"]))
        covered = expected_loudness(entry["phones"], len(part) // (RATE // CURVE)) > 0
        power = (part[: len(covered) * (RATE // CURVE)].reshape(len(covered), -1) ** 2).mean(1)
        silent += float((~covered).sum())
        outside, energy = outside + float(power[~covered].sum()), energy + float(power.sum())
    lags = np.array(found)
    return Fit(
        voice=voice, split=entries[0]["split"], minutes=len(samples) / RATE / 60, utterances=len(entries),
        trusted=sum(e["trusted"] for e in entries), lag_ms=1000 * float(np.median(lags[:, 0])), r=float(np.median(lags[:, 1])),
        silent_share=silent / (len(samples) / RATE * CURVE), loud_outside=outside / energy)


def report(folder: Path) -> str:
    """A table of every voice in a folder."""
    rows = [fit(folder, p.stem) for p in sorted(folder.glob("*.json"))]
    lines = ["voice                        split    min   n  trusted  lag ms     r  silent  energy outside phones"]
    lines += [
        f"{f.voice:28s} {f.split:5s} {f.minutes:6.1f} {f.utterances:3d} {f.trusted:8d} "
        f"{f.lag_ms:7.1f} {f.r:5.2f} {f.silent_share:7.2f} {f.loud_outside:7.3f}" for f in rows
    ]
    for split in ("train", "held"):
        lines.append(f"{split}: {sum(f.minutes for f in rows if f.split == split):.1f} min in {sum(f.split == split for f in rows)} voices")
    return "\n".join(lines)
