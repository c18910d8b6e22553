"""Held-out voices and faces of the training corpora, as pairs for the lip-sync benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tm_core.errors import InputError
from tm_core.metrics.phones import Phone, recognise_phones

RATE = 16000
PAUSE_S = 0.6  # between two utterances, so that silence is measured too
REMEDY = "make it with: python -m tm_core.train.corpus --out build/corpus"


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A stretch of a held-out voice with its phones."""

    name: str
    real: bool
    samples: np.ndarray
    phones: list[Phone]


@dataclass(frozen=True, kw_only=True)
class Face:
    """A held-out identity."""

    name: str
    path: Path


def held_faces(corpus: Path) -> list[Face]:
    """One picture of each held-out identity, by name."""
    index = _read(corpus / "faces" / "faces.json", "faces")
    faces = {e["identity"]: Face(name=e["identity"], path=corpus / "faces" / e["file"]) for e in index if e["split"] == "held"}
    if not faces:
        raise InputError("corpus", corpus / "faces", "no held-out identity in it", REMEDY)
    return [faces[name] for name in sorted(faces)]


def held_sounds(corpus: Path, count: int, seconds: float) -> list[Sound]:
    """`count` different stretches of about `seconds`, taking the held-out voices in turn."""
    voices = [v for path in sorted((corpus / "speech").glob("*.json")) if (v := _stretches(path, seconds, count))]
    if not voices:
        raise InputError("corpus", corpus / "speech", "no held-out voice in it", REMEDY)
    turns = [v[i] for i in range(count) for v in voices if i < len(v)]
    if len(turns) < count:
        raise InputError("corpus", corpus / "speech", f"only {len(turns)} held-out stretches of {seconds:g} s", "use shorter --seconds")
    return turns[:count]


def _read(path: Path, key: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError("corpus", path, "is not there", REMEDY)
    entries = json.loads(path.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = entries[key] if isinstance(entries, dict) else entries
    return found


def _stretches(path: Path, seconds: float, most: int) -> list[Sound]:
    """Utterances of one voice joined, with pauses, until each stretch is long enough."""
    entries = _read(path, "utterances")
    with np.load(path.with_suffix(".npz")) as stored:
        samples, starts = stored["samples"].astype(np.float32) / 32768, stored["starts"]
    ends = [*starts[1:], len(samples)]
    found, parts, phones, length = [], [], [], 0
    for entry, start, end in zip(entries, starts, ends, strict=False):
        if entry["split"] != "held":
            continue
        piece, offset = samples[start:end], length / RATE
        phones += [Phone(p, a + offset, b + offset) for p, a, b in entry["phones"]]
        parts += [piece, np.zeros(round(PAUSE_S * RATE), np.float32)]
        length += len(piece) + len(parts[-1])
        if length >= seconds * RATE:
            found.append(_cut(f"{path.stem}-{len(found)}", bool(entry["real"]), np.concatenate(parts), phones, seconds))
            parts, phones, length = [], [], 0
        if len(found) == most:
            break
    return found


def _cut(name: str, real: bool, samples: np.ndarray, phones: list[Phone], seconds: float) -> Sound:
    samples = samples[: round(seconds * RATE)]
    known = [Phone(p.name, p.start, min(p.end, seconds)) for p in phones if p.start < seconds]
    return Sound(name=name, real=real, samples=samples, phones=known or recognise_phones(samples))
