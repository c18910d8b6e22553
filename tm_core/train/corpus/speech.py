"""Speech with phone times: recorded prompts aligned by pocketsphinx, synthetic voices that tell their own.

One voice is one pair of files: NAME.npz with `samples` (int16, 16 kHz, all utterances end to end) and
`starts`, and NAME.json with one entry an utterance: text, phones [[ARPAbet, start_s, end_s], ...], real, language,
trusted (times true or from a transcript), licence, split. Needs Debian's asterisk-core-sounds-*-g722,
pocketsphinx-testdata and flite, and PyPI's pocketsphinx; a source that is not installed is left out, and said.
Whole voices are held out. Non-goals: stress, words, speaker traits.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import av
import numpy as np
from scipy.signal import resample_poly

from ...errors import InputError
from ...outputs import Staged, write_text
from ..visemes import PhoneInterval
from .download import TTS_DATA, TTS_PACKAGES, environment
from .texts import sentences

log = logging.getLogger(__name__)

RATE = 16000
HELD_VOICES = frozenset({"librivox", "flite_awb", "kokoro_jm_kumo"})  # never trained on
SOUNDS = Path("/usr/share/asterisk/sounds")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
PROMPTS = {"en": 1500.0, "fr": 500.0, "es": 500.0, "it": 600.0, "ru": 400.0}  # seconds of each language
FLITE = {"slt": 60, "rms": 60, "kal16": 40, "awb": 20}  # sentences of each voice
# pitch and pace differ enough between these to call them voices; a sum is the mean of two style vectors
NEURAL = {
    "hibari": 170, "jm_kumo": 28, "jf_alpha": 55, "jf_nezumi": 55, "jf_gongitsune": 55, "jf_tebukuro": 55, "jf_alpha+jf_tebukuro": 40,
}
ASTERISK_LICENCE = {"ru": "CC-BY-3.0 (Asterisk core sounds)"}
CC_BY_SA = "CC-BY-SA-3.0 (Asterisk core sounds)"
NEURAL_LICENCE = "synthesised by Apache-2.0 models (hibari, Kokoro)"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# words of the prompts that the dictionary lacks
WORDS = {
    "unmute": "AH N M Y UW T", "unmuted": "AH N M Y UW T AH D", "umute": "AH N M Y UW T", "pbx": "P IY B IY EH K S",
    "digium": "D IH JH IY AH M", "iax": "IY K S", "forevermore": "F ER EH V ER M AO R", "undelete": "AH N D AH L IY T",
    "undeleted": "AH N D AH L IY T AH D",
    "rerecord": "R IY R AH K AO R D", "touchtone": "T AH CH T OW N", "semicolon": "S EH M IY K OW L AH N", "lowercase": "L OW ER K EY S",
    "uppercase": "AH P ER K EY S", "xray": "EH K S R EY", "prepend": "P R IY P EH N D", "prepending": "P R IY P EH N D IH NG",
    "ivr": "AY V IY AA R", "represenatives": "R EH P R AH Z EH N T AH T IH V Z", "witheld": "W IH TH HH EH L D",
}


@dataclass(kw_only=True)
class CorpusUtterance:
    """Samples (n,) float32 at 16 kHz and what is said in them when."""

    samples: np.ndarray = field(repr=False)
    text: str
    phones: list[PhoneInterval]
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
    return bytes((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes())


def spoken_words(text: str) -> str:
    """A transcript as it is read aloud: lower case, digits as words; empty where numbers have no one reading."""
    text = re.sub(r"\[.*?\]|<.*?>|\(.*?\)", " ", text.lower()).replace("#", " pound ").replace("*", " star ")
    if re.search(r"\d\d|\d\.\d", text):
        return ""
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", re.sub(r"\d", lambda m: f" {DIGITS[int(m[0])]} ", text)))


class Aligner:
    """PhoneInterval times by pocketsphinx, from a transcript or, without one, by ear."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder, get_model_path

        home = get_model_path() + "/en-us/en-us"
        self._words = Decoder(loglevel="FATAL")
        for word, phones in WORDS.items():
            self._words.add_word(word, phones, True)
        self._recogniser = Decoder(hmm=home, allphone=home + "-phone.lm.bin", lw=2.0, beam=1e-20, pbeam=1e-20, loglevel="FATAL")

    def align(self, samples: np.ndarray, text: str) -> list[PhoneInterval]:
        """Phones of a transcript; RuntimeError or ValueError where it does not fit or has an unknown word."""
        words = spoken_words(text).split()
        if not words or any(self._words.lookup_word(w) is None for w in words):
            raise ValueError(f"cannot be aligned: {text[:80]}")
        data = _bytes(samples)
        self._words.set_align_text(" ".join(words))
        for first in (True, False):
            self._words.start_utt()
            self._words.process_raw(data, full_utt=True)
            self._words.end_utt()
            if first:
                self._words.set_alignment()
        phones = [(p.name, p.start / 100, (p.start + p.duration) / 100) for w in self._words.get_alignment() for p in w]
        return [p for p in phones if p[0] != "SIL"]

    def recognise(self, samples: np.ndarray) -> list[PhoneInterval]:
        """Phones heard."""
        self._recogniser.start_utt()
        self._recogniser.process_raw(_bytes(samples), full_utt=True)
        self._recogniser.end_utt()
        heard = [(s.word, s.start_frame / 100, (s.end_frame + 1) / 100) for s in self._recogniser.seg()]
        return [p for p in heard if p[0].isalpha() and p[0] != "SIL"]

    def best(self, samples: np.ndarray, text: str) -> tuple[list[PhoneInterval], bool]:
        """Phones, aligned if possible and else heard, and whether they are from the transcript."""
        try:
            return self.align(samples, text), True
        except (RuntimeError, ValueError):
            return self.recognise(samples), False


def join(parts: list[CorpusUtterance], rng: np.random.Generator, seconds: float) -> Iterator[CorpusUtterance]:
    """Short utterances end to end with pauses between, each result about `seconds` long.

    Pauses are 0.3 to 1 s, every third one short; a third of the results is digitally silent between, the others
    have a faint hiss throughout. Trusted and other utterances do not mix.
    """
    for trusted in (True, False):
        for group in _grouped([p for p in parts if p.trusted == trusted], seconds):
            yield _joined(group, rng)


def _grouped(parts: list[CorpusUtterance], seconds: float) -> list[list[CorpusUtterance]]:
    """Neighbours until there are `seconds` of them; a short rest joins the last group."""
    groups: list[list[CorpusUtterance]] = []
    for part in parts:
        if not groups or _seconds(groups[-1]) >= seconds:
            groups.append([])
        groups[-1].append(part)
    if len(groups) > 1 and _seconds(groups[-1]) < 0.6 * seconds:
        rest = groups.pop()
        groups[-1] += rest
    return groups


def _seconds(group: list[CorpusUtterance]) -> float:
    return sum(len(p.samples) for p in group) / RATE


def _joined(group: list[CorpusUtterance], rng: np.random.Generator) -> CorpusUtterance:
    samples: list[np.ndarray] = []
    phones: list[PhoneInterval] = []
    at = 0
    for p in group:
        pause = int(rng.uniform(0.3, 1.0) * (0.35 if rng.random() < 1 / 3 else 1.0) * RATE)
        samples += [np.zeros(pause, np.float32), _faded(p.samples)]
        phones += [(n, round((at + pause) / RATE + a, 4), round((at + pause) / RATE + b, 4)) for n, a, b in p.phones]
        at += pause + len(p.samples)
    samples.append(np.zeros(RATE // 2, np.float32))
    whole, first = np.concatenate(samples), group[0]
    if rng.random() < 2 / 3:
        whole = whole + rng.standard_normal(len(whole)).astype(np.float32) * np.float32(10 ** rng.uniform(-4, -2.9))
    return CorpusUtterance(
        samples=whole, text=" ".join(p.text for p in group).strip(), phones=phones, real=first.real, language=first.language,
        trusted=first.trusted, licence=first.licence)


def _faded(samples: np.ndarray) -> np.ndarray:
    """5 ms in and out, so that the joins do not click."""
    ramp = np.minimum(1, np.arange(len(samples)) / (0.005 * RATE))
    return np.asarray(samples * np.minimum(ramp, ramp[::-1]), np.float32)


def prompts(language: str, aligner: Aligner, limit_s: float) -> list[CorpusUtterance]:
    """Asterisk's recorded prompts of a language; English ones aligned to their transcripts."""
    transcript = _transcripts() if language == "en" else {}
    licence = ASTERISK_LICENCE.get(language, CC_BY_SA)
    found, total = [], 0.0
    for path in sorted((SOUNDS / language).glob("*.g722")):
        text = transcript.get(path.stem, "")
        if total > limit_s or re.search("beep|tone|silence|monkeys", path.stem) or text.startswith(("[", "<")):
            continue
        samples = _decode(path, "g722")
        if len(samples) < 0.5 * RATE:
            continue
        phones, trusted = aligner.best(samples, text)
        if phones:
            found.append(CorpusUtterance(
                samples=samples, text=text, phones=phones, real=True, language=language, trusted=trusted, licence=licence))
            total += len(samples) / RATE
    return found


def _transcripts() -> dict[str, str]:
    lines = gzip.decompress(TRANSCRIPTS.read_bytes()).decode("utf-8", "replace").splitlines() if TRANSCRIPTS.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {name.strip(): text.strip() for name, text in pairs}


def librivox(aligner: Aligner) -> list[CorpusUtterance]:
    """The five public-domain LibriVox clips of pocketsphinx-testdata, aligned to their transcripts."""
    lines = re.findall(r"<s> (.*?) </s> \((.*?)\)", (LIBRIVOX / "transcription").read_text())
    found = []
    for text, name in lines:
        samples = _decode(LIBRIVOX / f"{name}.wav")
        phones, trusted = aligner.best(samples, text)
        found.append(CorpusUtterance(
            samples=samples, text=text, phones=phones, real=True, language="en", trusted=trusted, licence="public domain (LibriVox)"))
    return found


def flite(voice: str, texts: list[str]) -> list[CorpusUtterance]:
    """flite's voices print their own phone times."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "said.wav"
        for text in texts:
            command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(wav)]
            made = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(CorpusUtterance(
                samples=_wav(wav), text=text, phones=flite_phones(made.stdout), real=False, language="en", trusted=True,
                licence="flite voice (BSD-like)"))
    return found


def _wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as f:
        if f.getframerate() != RATE:
            return _decode(path)
        return np.frombuffer(f.readframes(f.getnframes()), np.int16).astype(np.float32) / 32768


def flite_phones(printed: str) -> list[PhoneInterval]:
    """Phones from flite's `name:end_s ...`, pauses left out."""
    phones, start = [], 0.0
    for name, end in (item.rsplit(":", 1) for item in printed.split()):
        if name != "pau":
            phones.append((name.upper(), start, float(end)))
        start = float(end)
    return phones


def neural(voice: str, texts: list[str], python: Path, rng: np.random.Generator) -> list[CorpusUtterance]:
    """hibari or Kokoro, spoken by tts.py in the environment of `python`; each sentence at its own pace."""
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.npz"
        job.write_text(json.dumps([{"voice": voice, "text": t, "speed": round(float(rng.uniform(0.85, 1.15)), 3)} for t in texts]))
        done = subprocess.run([str(python), str(Path(__file__).with_name("tts.py")), str(job), str(out)], capture_output=True, text=True)
        if done.returncode:
            raise InputError("voice", voice, (done.stderr.strip().splitlines() or ["stopped"])[-1][:200], "leave it out (--without neural)")
        with np.load(out) as z:
            samples, phones = z["samples"].astype(np.float32) / 32768, json.loads(str(z["phones"]))
            starts = [int(i) for i in z["starts"]]
    ends = [*starts[1:], len(samples)]
    return [
        CorpusUtterance(
            samples=resample_poly(samples[a:b], 2, 3).astype(np.float32), text=t, phones=[(n, s, e) for n, s, e in p], real=False,
            language="en", trusted=True, licence=NEURAL_LICENCE)
        for a, b, t, p in zip(starts, ends, texts, phones, strict=True)
    ]


def save_voice(name: str, utterances: list[CorpusUtterance], out: Path) -> None:
    """Write NAME.npz, then NAME.json: a voice whose list is there is complete."""
    starts = np.cumsum([0, *[len(u.samples) for u in utterances]])[:-1]
    split = "held" if name in HELD_VOICES else "train"
    entries = [{**{k: v for k, v in asdict(u).items() if k != "samples"}, "split": split} for u in utterances]
    samples = np.concatenate([u.samples for u in utterances])
    with Staged(out / f"{name}.npz", "speech") as part, part.open("wb") as f:
        np.savez(f, samples=(np.clip(samples, -1, 1) * 32767).astype(np.int16), starts=starts)
    write_text(out / f"{name}.json", json.dumps(entries), "speech")
    trusted = sum(u.trusted for u in utterances)
    log.info("speech: %s: %d utterances, %.1f min, %d trusted, %s", name, len(utterances), len(samples) / RATE / 60, trusted, split)


def make_speech(out: Path, cache: Path, *, seed: int = 0, with_neural: bool = True) -> None:
    """All voices into `out`; one that is already there is kept, one that cannot be made is left out, and said."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in enumerate(_voices(cache, with_neural)):
        if (out / f"{name}.json").is_file():
            continue
        rng = np.random.default_rng([seed, number])
        try:
            save_voice(name, make(rng), out)
        except (InputError, OSError, subprocess.CalledProcessError) as e:
            log.warning("speech: %s left out: %s", name, e)


def _voices(cache: Path, with_neural: bool) -> Iterator[tuple[str, Callable[[np.random.Generator], list[CorpusUtterance]]]]:
    """(name, maker) of every voice this machine can make, in a fixed order."""
    for i, (voice, count) in enumerate(FLITE.items()):
        if shutil.which("flite"):
            yield f"flite_{voice}", partial(_flite, voice, sentences(count, 100 + i))
        else:
            log.warning("speech: flite_%s left out: install Debian's flite", voice)
    if LIBRIVOX.is_dir():
        yield "librivox", _librivox
    else:
        log.warning("speech: librivox left out: install Debian's pocketsphinx-testdata")
    for i, (voice, count) in enumerate(NEURAL.items() if with_neural else ()):
        yield voice if voice == "hibari" else f"kokoro_{voice}", partial(_neural, voice, sentences(count, 200 + i), cache)
    for language, limit in PROMPTS.items():
        if (SOUNDS / language).is_dir():
            yield f"asterisk_{language}", partial(_prompts, language, limit)
        else:
            log.warning("speech: asterisk_%s left out: install Debian's asterisk-core-sounds-%s-g722", language, language)


def _flite(voice: str, texts: list[str], rng: np.random.Generator) -> list[CorpusUtterance]:
    return list(join(flite(voice, texts), rng, 7))


def _prompts(language: str, limit_s: float, rng: np.random.Generator) -> list[CorpusUtterance]:
    return list(join(prompts(language, Aligner(), limit_s), rng, 8))


def _librivox(rng: np.random.Generator) -> list[CorpusUtterance]:
    clips = librivox(Aligner())  # only 25 s, so in four orders, for enough utterances of 8 s and more
    return [u for i in range(4) for u in join(clips[i:] + clips[:i], rng, 7.5)]


def _neural(voice: str, texts: list[str], cache: Path, rng: np.random.Generator) -> list[CorpusUtterance]:
    python = environment("tts", TTS_PACKAGES, cache, TTS_DATA)
    return list(join(neural(voice, texts, python, rng), rng, 6))
