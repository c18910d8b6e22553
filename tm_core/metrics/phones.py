"""Which speech sound is heard when, by recognisers that need no transcript.

Two of them, so that a generator driven by one can be judged by the other: pocketsphinx (allphone) and
hama. Both are extras, asked for only here. Non-goals: words, languages other than English (other
languages are heard as the nearest English sounds, which is enough for open and closed lips).
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError

log = logging.getLogger(__name__)

RATE = 16000
SILENT = 1e-4
PIECE_S = 20.0  # recognisers keep a lattice of the whole utterance: long sounds are cut in the quietest places
HAMA_DELAY_S = 0.066  # its emissions come this late, measured against pocketsphinx
HAMA_LONGEST_S = 0.2  # it only says when a sound begins
INSTALL = {
    "pocketsphinx": "install it with: pip install pocketsphinx (or the extra: pip install 'talking-machines[score]')",
    "hama": "install it with: pip install hama",
}
Recogniser = Literal["pocketsphinx", "hama"]


class Phone(NamedTuple):
    """ARPAbet name without stress ("SIL" for none), start and end in seconds."""

    name: str
    start: float
    end: float


def recognise_phones(samples: np.ndarray, recogniser: Recogniser = "pocketsphinx") -> list[Phone]:
    """Phones of a voice (n,) float32 at 16 kHz; InputError when the recogniser is not installed."""
    hear = {"pocketsphinx": _pocketsphinx, "hama": _hama}[recogniser]
    phones: list[Phone] = []
    for start, end in pieces(samples):
        piece = samples[start:end]
        if len(piece) <= RATE // 20 or float(np.abs(piece).max()) < SILENT:
            continue  # recognisers hear a hiss in digital silence
        heard = hear(piece)
        phones += [Phone(p.name, p.start + start / RATE, p.end + start / RATE) for p in heard]
    return phones


def installed(recogniser: Recogniser) -> bool:
    """Whether `recognise_phones` can use this recogniser here."""
    return find_spec(recogniser) is not None


def pieces(samples: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of parts of at most PIECE_S, cut where the second half of each is quietest."""
    hop, longest = RATE // 50, int(PIECE_S * RATE)
    out, start = [], 0
    while len(samples) - start > longest:
        look = samples[start + longest // 2 : start + longest]
        loud = (look[: len(look) // hop * hop].reshape(-1, hop).astype(np.float64) ** 2).mean(1)
        wide = np.convolve(loud, np.ones(9), "same")  # a pause, not a dip inside a sound
        cut = start + longest // 2 + int(wide[4:-4].argmin() + 4) * hop + hop // 2
        out.append((start, cut))
        start = cut
    return [*out, (start, len(samples))]


def _pocketsphinx(samples: np.ndarray) -> list[Phone]:
    try:
        from pocketsphinx import Decoder, get_model_path
    except ImportError as e:
        raise InputError("phones", "pocketsphinx", "is not installed", INSTALL["pocketsphinx"]) from e
    home = get_model_path() + "/en-us/en-us"
    decoder = Decoder(hmm=home, allphone=home + "-phone.lm.bin", lw=2.0, beam=1e-20, pbeam=1e-20, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    rate = 100  # its frames per second
    return [Phone(s.word, s.start_frame / rate, (s.end_frame + 1) / rate) for s in decoder.seg() or ()]


def _hama(samples: np.ndarray) -> list[Phone]:
    try:
        model: Any = import_module("hama").ASRModel()
    except ImportError as e:
        raise InputError("phones", "hama", "is not installed", INSTALL["hama"]) from e
    spans = model.phoneme_spans(model.transcribe_waveform(samples.astype(np.float32), RATE))
    phones = []
    for span in spans:
        start = span.start_ms / 1000 - HAMA_DELAY_S
        end = min(span.end_ms / 1000 - HAMA_DELAY_S, start + HAMA_LONGEST_S)
        if name := _arpabet(span.phoneme):
            phones.append(Phone(name, max(0.0, start), max(0.0, end)))
    return phones


def _arpabet(symbol: str) -> str | None:
    """Nearest ARPAbet phone: marks of length, breath and tension dropped, of a glide and a vowel the vowel."""
    plain = symbol.translate(dict.fromkeys(MARKS))
    return IPA.get(plain) or IPA.get(plain[-1:])


MARKS = (0x361, 0x2B0, 0x348)  # tie, breath, tension
# ASCII names of the International Phonetic Alphabet's letters that hama writes for English
IPA = {
    "\u0251": "AA", "\u00e6": "AE", "\u028c": "AH", "\u0259": "AH", "\u0254": "AO", "a\u028a": "AW", "a\u026a": "AY", "b": "B",
    "a": "AA", "\u0252": "AA", "\u0250": "AH", "e": "EY", "o": "OW", "\u025c": "ER", "\u027e": "D", "\u026b": "L", "x": "HH",
    "t\u0283": "CH", "d": "D", "\u00f0": "DH", "\u025b": "EH", "\u025d": "ER", "\u025a": "ER", "e\u026a": "EY", "f": "F",
    "g": "G", "\u0261": "G", "h": "HH", "\u026a": "IH", "i": "IY", "d\u0292": "JH", "k": "K", "l": "L", "m": "M", "n": "N",
    "\u014b": "NG", "o\u028a": "OW", "\u0254\u026a": "OY", "p": "P", "r": "R", "\u0279": "R", "s": "S", "\u0283": "SH",
    "t": "T", "\u03b8": "TH", "\u028a": "UH", "u": "UW", "v": "V", "w": "W", "j": "Y", "z": "Z", "\u0292": "ZH",
}
