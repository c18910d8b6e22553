"""Speech with phone times: recorded prompts aligned by pocketsphinx, synthetic voices that tell their own.

One voice is one pair of files: NAME.npz with `samples` (int16, 16 kHz, all utterances end to end) and
`starts`, and NAME.json with one entry an utterance: text, phones [[ARPAbet, start_s, end_s]], real, language,
trusted (times true or from a transcript), licence, split. Needs Debian's asterisk-core-sounds-*-g722,
pocketsphinx-testdata and flite, and PyPI's pocketsphinx; a source that is not installed is left out, and said.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import numpy as np

from ..visemes import Phone

log = logging.getLogger(__name__)

RATE = 16000
HELD_VOICES = frozenset({"librivox", "flite_awb", "kokoro_jm_kumo"})  # never trained on
SOUNDS = Path("/usr/share/asterisk/sounds")
LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
CC_BY_SA = "CC-BY-SA-3.0 (Asterisk core sounds)"


@dataclass(kw_only=True)
class Utterance:
    """Samples (n,) float32 at 16 kHz and what is said in them when."""

    samples: np.ndarray = field(repr=False)
    text: str
    phones: list[Phone]
    real: bool
    language: str
    trusted: bool
    licence: str


def _decode(path: Path, fmt: str | None = None) -> np.ndarray:
    with av.open(str(path), format=fmt) as f:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = [o.to_ndarray()[0] for frame in [*f.decode(audio=0), None] for o in resampler.resample(frame)]
    return np.concatenate(frames).astype(np.float32)


def _bytes(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()


class Aligner:
    """Phone times by pocketsphinx, from a transcript or, without one, by ear."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder, get_model_path

        home = get_model_path() + "/en-us/en-us"
        self._words = Decoder(loglevel="FATAL")
        self._ear = Decoder(hmm=home, allphone=home + "-phone.lm.bin", lw=2.0, beam=1e-20, pbeam=1e-20, loglevel="FATAL")

    def align(self, samples: np.ndarray, text: str) -> list[Phone]:
        """Phones of a transcript; RuntimeError where it does not fit (a word that is not in the dictionary)."""
        data = _bytes(samples)
        self._words.set_align_text(" ".join(re.findall(r"[a-z']+", text.lower())))
        for first in (True, False):
            self._words.start_utt()
            self._words.process_raw(data, full_utt=True)
            self._words.end_utt()
            if first:
                self._words.set_alignment()
        phones = [(p.name, p.start / 100, (p.start + p.duration) / 100) for w in self._words.get_alignment() for p in w]
        return [p for p in phones if p[0] != "SIL"]

    def listen(self, samples: np.ndarray) -> list[Phone]:
        """Phones heard."""
        self._ear.start_utt()
        self._ear.process_raw(_bytes(samples), full_utt=True)
        self._ear.end_utt()
        heard = [(s.word, s.start_frame / 100, (s.end_frame + 1) / 100) for s in self._ear.seg()]
        return [p for p in heard if p[0].isalpha() and p[0] != "SIL"]


def join(parts: list[Utterance], rng: np.random.Generator, seconds: float) -> Iterator[Utterance]:
    """Short utterances end to end with pauses of 0.2 to 0.9 s, each result about `seconds` long."""
    group: list[Utterance] = []
    for i, part in enumerate(parts):
        group.append(part)
        if sum(len(p.samples) for p in group) < seconds * RATE and i < len(parts) - 1:
            continue
        samples, phones, at = [], [], 0
        for p in group:
            pause = int(rng.uniform(0.2, 0.9) * RATE)
            samples += [np.zeros(pause, np.float32), p.samples]
            phones += [(n, (at + pause) / RATE + a, (at + pause) / RATE + b) for n, a, b in p.phones]
            at += pause + len(p.samples)
        samples.append(np.zeros(RATE // 3, np.float32))
        first = group[0]
        yield Utterance(samples=np.concatenate(samples), text=" ".join(p.text for p in group), phones=phones, real=first.real,
                        language=first.language, trusted=all(p.trusted for p in group), licence=first.licence)
        group = []


def prompts(language: str, aligner: Aligner, limit_s: float) -> list[Utterance]:
    """Asterisk's recorded prompts of a language; English ones aligned to their transcripts."""
    transcript = _transcripts() if language == "en" else {}
    found, total = [], 0.0
    for path in sorted((SOUNDS / language).glob("*.g722")):
        text = transcript.get(path.stem, "")
        if total > limit_s or "beep" in path.stem or text.startswith("["):
            continue
        samples = _decode(path, "g722")
        if len(samples) < 0.5 * RATE:
            continue
        trusted = False
        phones: list[Phone] = []
        if text:
            try:
                phones, trusted = aligner.align(samples, text), True
            except (RuntimeError, ValueError):
                log.debug("%s: transcript does not align, heard instead", path.stem)
        phones = phones or aligner.listen(samples)
        found.append(Utterance(samples=samples, text=text, phones=phones, real=True, language=language, trusted=trusted, licence=CC_BY_SA))
        total += len(samples) / RATE
    return found


def _transcripts() -> dict[str, str]:
    import gzip

    path = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines() if path.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {name.strip(): text.strip() for name, text in pairs}


def librivox(aligner: Aligner) -> list[Utterance]:
    """The five public-domain LibriVox clips of pocketsphinx-testdata."""
    found = []
    for path in sorted(LIBRIVOX.glob("*.wav")):
        samples = _decode(path)
        found.append(Utterance(samples=samples, text="", phones=aligner.listen(samples), real=True, language="en", trusted=True,
                               licence="public domain (LibriVox)"))
    return found


def flite(voice: str, sentences: list[str], work: Path) -> list[Utterance]:
    """flite's voices print their own phone times."""
    found, wav = [], work / f"{voice}.wav"
    for sentence in sentences:
        made = subprocess.run(["flite", "-voice", voice, "-psdur", "-t", sentence, "-o", str(wav)],  # noqa: S603, S607
                              capture_output=True, text=True, check=True)
        with wave.open(str(wav)) as f:
            rate, samples = f.getframerate(), np.frombuffer(f.readframes(f.getnframes()), np.int16).astype(np.float32) / 32768
        if rate != RATE:
            samples = _decode(wav)
        phones, start = [], 0.0
        for name, end in (item.rsplit(":", 1) for item in made.stdout.split()):
            if name != "pau":
                phones.append((name.upper(), start, float(end)))
            start = float(end)
        found.append(Utterance(samples=samples, text=sentence, phones=phones, real=False, language="en", trusted=True,
                               licence="flite voice (BSD-like)"))
    wav.unlink(missing_ok=True)
    return found


def save_voice(name: str, utterances: list[Utterance], out: Path) -> None:
    """Write NAME.npz and NAME.json."""
    starts = np.cumsum([0, *[len(u.samples) for u in utterances]])[:-1]
    split = "held" if name in HELD_VOICES else "train"
    entries = [{**{k: v for k, v in asdict(u).items() if k != "samples"}, "split": split} for u in utterances]
    samples = np.concatenate([u.samples for u in utterances])
    np.savez(out / f"{name}.npz", samples=(np.clip(samples, -1, 1) * 32767).astype(np.int16), starts=starts)
    (out / f"{name}.json").write_text(json.dumps(entries))
    trusted = sum(u.trusted for u in utterances)
    log.info("%s: %d utterances, %.1f min, %d trusted, %s", name, len(utterances), len(samples) / RATE / 60, trusted, split)


def sentences(count: int, seed: int) -> list[str]:
    """Texts for the synthesisers: the transcripts of the English prompts, two or three together."""
    texts = [t for t in _transcripts().values() if 12 < len(t) < 160 and not t.startswith("[")]
    rng = np.random.default_rng(seed)
    return [" ".join(str(t) for t in rng.choice(texts, 2, replace=False)) for _ in range(count)]


def make_speech(out: Path, *, seed: int = 0) -> None:
    """All voices; one that is already there is kept."""
    out.mkdir(parents=True, exist_ok=True)
    rng, aligner = np.random.default_rng(seed), Aligner()
    for language, limit in (("en", 1500.0), ("fr", 500.0), ("es", 500.0), ("it", 500.0)):
        if not (out / f"asterisk_{language}.json").is_file() and (SOUNDS / language).is_dir():
            save_voice(f"asterisk_{language}", list(join(prompts(language, aligner, limit), rng, 9)), out)
    if LIBRIVOX.is_dir() and not (out / "librivox.json").is_file():
        clips = librivox(aligner)
        save_voice("librivox", list(join([*clips, *clips[2:], *clips[:2]], rng, 8)), out)
    for i, (voice, count) in enumerate((("slt", 60), ("rms", 60), ("kal16", 40), ("awb", 20))):
        if not (out / f"flite_{voice}.json").is_file():
            save_voice(f"flite_{voice}", list(join(flite(voice, sentences(count, i), out), rng, 8)), out)
