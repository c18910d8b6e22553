"""What the benchmarks share: inputs, the shape of a result, running the main job once."""

from __future__ import annotations

import time
import wave
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tm_core import talk
from tm_core.errors import InputError
from tm_core.media.audio_io import Waveform, read_audio
from tm_core.media.image_io import open_image
from tm_core.streaming.handles import DecodedStream
from tm_core.weights.loading import TalkingModel, load_model

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "tm_core" / "assets"
Result = dict[str, Any]


def result(what: str, value: float | int | str, unit: str, bar: str | None = None, ok: bool | None = None) -> Result:
    """One figure; `bar` says what it must be, `ok` whether it is (None: no bar)."""
    shown = round(value, 4) if isinstance(value, float) else value
    return {"what": what, "value": shown, "unit": unit, "bar": bar, "ok": None if ok is None else bool(ok)}


def say(text: str) -> None:
    """Progress for whoever waits (the command line shows stdout of a benchmark on stderr)."""
    print(text, flush=True)


def first_asset(folder: str, endings: tuple[str, ...]) -> Path:
    """The first bundled file of a kind, by name."""
    found = sorted(p for p in (ASSETS / folder).glob("*") if p.suffix in endings)
    if not found:
        raise InputError("assets", ASSETS / folder, "the bundled demo file is missing", "restore the folder from the repository")
    return found[0]


def demo_portrait() -> Path:
    """The bundled portrait."""
    return first_asset("portraits", (".png", ".jpg", ".webp"))


def demo_speech() -> Path:
    """The bundled recording of real speech."""
    return first_asset("speech", (".wav", ".flac", ".mp3"))


def speech_of(seconds: float) -> Waveform:
    """The bundled speech, repeated or cut to this length."""
    voice = read_audio(demo_speech())
    count = round(seconds * voice.sample_rate)
    return Waveform(samples=np.resize(voice.samples, count).astype(np.float32), sample_rate=voice.sample_rate)


def write_wav(path: Path, waveform: Waveform) -> Path:
    """16-bit mono."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(waveform.sample_rate)
        out.writeframes((waveform.samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def load(weights: Path | None, device: str) -> TalkingModel:
    """The model to measure."""
    return load_model(weights, device=talk.parse_device("--device", device), dtype=torch.float32)


def variant(model: TalkingModel, **sampler: Any) -> TalkingModel:
    """The same weights sampled in another way: fields of SamplerConfig."""
    return replace(model, config=replace(model.config, sampler=replace(model.config.sampler, **sampler)))


@dataclass
class Reporter:
    """Says every few seconds how far a long run has got."""

    total_s: float
    every_s: float = 20.0
    _last: float = 0.0

    def __call__(self, video_s: float) -> None:
        if time.monotonic() - self._last >= self.every_s:
            self._last = time.monotonic()
            say(f"  {video_s:.0f} of {self.total_s:.0f} s")


def stream_of(model: TalkingModel, waveform: Waveform, portrait: Path | None = None, seed: int = 0) -> DecodedStream:
    """The stream of a portrait (the bundled one) and a sound."""
    subject = talk.prepare_portrait(open_image(portrait or demo_portrait()), model.config)
    speech = talk.select_speaking(talk.encode_audio(waveform, model.config))
    return talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech), seed=seed))
