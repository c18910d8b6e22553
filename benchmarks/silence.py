"""Listening faces, with zero and with real silence, and who speaks when: flags against a conversation of known times.

Faces: the bundled portrait and held-out ones, held-out voices. The same face and sound speaking and listening: spread of the lip
gap, and what still moves above the lower lids. Then one face of a conversation, in its own turns and in the others'. Flags: two held-out
voices alternate, their phones say when each one speaks; a frame is right where flag and phones agree. At last music
without a voice, made by rule. `--seconds` sets the length
of a clip and of three turns. The corpora lie in build/corpus, or where TM_CORPUS says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks._common import Result, demo_portrait, load, result, say, speech_of
from benchmarks._corpus import RATE, Face, Sound, held_faces, held_sounds
from benchmarks._truth import Seen, corpus_folder, look_at
from tm_core import talk
from tm_core.audio.conversation import split_conversation
from tm_core.audio.silenced_windows import Silence
from tm_core.audio.turns import Span, SpeakingTurns, Turn, merged, parse_rttm
from tm_core.errors import InputError
from tm_core.face.topology import BROWS_AND_ABOVE, FOREHEAD, LEFT_EYE, RIGHT_EYE
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.metrics.phones import Phone
from tm_core.weights.loading import TalkingModel

PAIRS, SECONDS, TURNS = 3, 6.0, 3
KINDS: tuple[Silence, ...] = ("zero", "real")
MAX_RATIO, MIN_MOTION, MIN_BLINKS, MIN_ACCURACY, MAX_WRONG = 0.1, 0.25, 1, 0.9, 0.02
PAUSE_S = 0.3  # shorter gaps between phones are speech, as for Speaking / Silence
BETWEEN_S = 0.5  # from one turn to the next
SETTLED_S = 0.4  # lips are on their way near the ends of a turn
NOISES_DB = (-40.0, -30.0, -20.0)  # white noise under the voice's own level
UPPER = [*BROWS_AND_ABOVE, FOREHEAD, *RIGHT_EYE, *LEFT_EYE]
LIDS = ((159, 145), (386, 374))  # upper and lower, in the middle of each eye
CORNERS = ((33, 133), (263, 362))
BLINK_LEVELS, BLINK_TIMES = 5.0, 3.0  # of 255, and of its usual change: how much an eye's look changes in a blink
BLINK_FRAMES = range(2, 13)


@dataclass(frozen=True, kw_only=True)
class Talk:
    """Two voices in turn: one track each (n,), and when each one speaks (spans of seconds)."""

    names: tuple[str, str]
    tracks: tuple[np.ndarray, np.ndarray]
    truth: tuple[tuple[Span, ...], tuple[Span, ...]]
    turns: SpeakingTurns

    @property
    def mixed(self) -> np.ndarray:
        """Both in one track (n,)."""
        return self.tracks[0] + self.tracks[1]

    @property
    def rttm(self) -> str:
        """The diarisation that a perfect diariser writes."""
        line = "SPEAKER talk 1 {:.3f} {:.3f} <NA> <NA> {} <NA> <NA>"
        return "\n".join(line.format(t.start_s, t.end_s - t.start_s, t.speaker) for t in self.turns.turns)


def run(*, weights: Path | None = None, device: str = "auto", seconds: float | None = None) -> list[Result]:
    """Faces, then flags; InputError without the corpora."""
    length, model = seconds or SECONDS, load(weights, device)
    talks = conversations(corpus_folder(), length / TURNS)
    faces = [Face(name="demo", path=demo_portrait()), *held_faces(corpus_folder())]
    sounds = held_sounds(corpus_folder(), PAIRS, length)
    pairs = [_pair(model, faces[i % len(faces)], sound, i) for i, sound in enumerate(sounds)]
    return [*_listening(pairs), *_turns(model, faces[0], talks[0]), *_flags(model, talks), *music_rows(model, faces[0], length)]


# -- faces ----------------------------------------------------------------------------------------------------------------


def _seen(model: TalkingModel, face: Face, speech: talk.Speaker, seed: int) -> Seen:
    subject = talk.prepare_portrait(open_image(face.path), model.config)
    stream = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech), seed=seed), framing="face")
    return look_at(np.concatenate([chunk.frames for chunk in stream]))


def _pair(model: TalkingModel, face: Face, sound: Sound, seed: int) -> dict[str, Seen]:
    """A face that speaks, and that listens to the same sound with both kinds of silence."""
    voice = talk.encode_audio(Waveform(samples=sound.samples), model.config)
    made = {"speaking": _seen(model, face, talk.select_speaking(voice, "speaking"), seed)}
    for kind in KINDS:
        made[kind] = _seen(model, face, talk.select_speaking(voice, "listening", silence=kind), seed)
        say(f"{face.name} x {sound.name}, {kind} silence: lip gap std {_lips(made[kind]) / _lips(made['speaking']):.3f} of speaking")
    return made


def music_rows(model: TalkingModel, face: Face, seconds: float) -> list[Result]:
    """How far a mouth opens to music without a voice: loudness alone cannot tell it from speech."""
    quiet = np.zeros(round(RATE * seconds), np.float32)
    sounds = {"speech": speech_of(seconds), "music": Waveform(samples=music(seconds)), "silence": Waveform(samples=quiet)}
    gap = {name: float(np.nanmedian(_seen(model, face, talk.select_speaking(talk.encode_audio(sound, model.config)), 0).gap))
           for name, sound in sounds.items()}
    return [
        result("median lip gap, silence", gap["silence"], "of the face's height"),
        result("music without a voice: median lip gap over that of silence", gap["music"] / gap["silence"], "times"),
        result("speech: median lip gap over that of silence", gap["speech"] / gap["silence"], "times")]


def music(seconds: float) -> np.ndarray:
    """Chords, bass and drums (n,), made by rule: synthetic."""
    rng, t = np.random.default_rng(0), np.arange(round(RATE * seconds)) / RATE
    roots = np.array([220.0, 196.0, 174.0, 196.0])[(t % 4).astype(int)]
    chords = sum(np.sin(2 * np.pi * roots * k * h * t) / h for k in (1, 1.26, 1.5) for h in (1, 2, 3)) * 0.08
    drums = np.exp(-(t % 0.5) * 30) * rng.normal(size=len(t)) * 0.15 + np.exp(-(t % 1.0) * 12) * np.sin(2 * np.pi * 60 * t) * 0.4
    mixed = chords + drums
    return np.asarray(mixed / np.abs(mixed).max() * 0.5, np.float32)


def _lips(seen: Seen) -> float:
    return float(np.nanstd(seen.gap))


def change(seen: Seen) -> float:
    """Mean change from frame to frame of the picture from its top to the lower lids, in grey levels of 255."""
    lids = seen.landmarks[:, [low for _, low in LIDS], 1]
    rows = max(1, round(float(np.nanmax(lids))))
    return float(np.abs(np.diff(seen.frames[:, :rows].astype(np.float32), axis=0)).mean())


def wander(seen: Seen) -> float:
    """Spread over time of brows, forehead and eye corners, in pixels."""
    return float(np.nanstd(seen.landmarks[:, UPPER, :2], axis=0).mean())


def blinks(seen: Seen) -> int:
    """How often both eyes look otherwise than they usually do, for as long as a blink lasts; the mesh hardly sees lids close."""
    shut = np.ones(len(seen.frames), bool)
    for (outer, inner), (up, low) in zip(CORNERS, LIDS, strict=True):
        middle = np.nanmedian(seen.landmarks[:, [up, low], :2], (0, 1))
        wide = float(np.nanmedian(np.abs(seen.landmarks[:, outer, 0] - seen.landmarks[:, inner, 0]))) / 2
        (x0, y0), (x1, y1) = (np.round(middle + sign * np.array([wide, wide / 2])).astype(int) for sign in (-1, 1))
        eye = seen.frames[:, max(0, y0) : y1 + 1, max(0, x0) : x1 + 1].astype(np.float32)
        off = np.abs(eye - np.median(eye, 0)).mean((1, 2, 3))
        shut &= off > max(BLINK_LEVELS, BLINK_TIMES * float(np.median(off)))
    return sum(bool(closed) and len(list(run)) in BLINK_FRAMES for closed, run in groupby(shut))


def _listening(pairs: list[dict[str, Seen]]) -> list[Result]:
    found = [
        result("pairs of face and voice", len(pairs), ""),
        result("lip gap std speaking, mean", fmean(_lips(p["speaking"]) for p in pairs), "of the face's height"),
        result("blinks while speaking, all pairs", sum(blinks(p["speaking"]) for p in pairs), ""),
    ]
    for kind in KINDS:
        ratios = [_lips(p[kind]) / _lips(p["speaking"]) for p in pairs]
        moved = fmean(change(p[kind]) / change(p["speaking"]) for p in pairs)
        shut = sum(blinks(p[kind]) for p in pairs)
        found += [
            result(f"{kind} silence: lip gap std listening over speaking, mean", fmean(ratios), ""),
            result(f"{kind} silence: the same, worst pair", max(ratios), "", f"<= {MAX_RATIO}", max(ratios) <= MAX_RATIO),
            result(
                f"{kind} silence: change from frame to frame above the lower lids, over speaking", moved, "", f">= {MIN_MOTION}",
                moved >= MIN_MOTION),
            result(f"{kind} silence: the same in grey levels", fmean(change(p[kind]) for p in pairs), "of 255"),
            result(f"{kind} silence: spread of brows, forehead and eye corners", fmean(wander(p[kind]) for p in pairs), "px"),
            result(f"{kind} silence: blinks, all pairs", shut, "", f">= {MIN_BLINKS}", shut >= MIN_BLINKS),
        ]
    wandered = fmean(wander(p["speaking"]) for p in pairs)
    return [*found, result("speaking: spread of brows, forehead and eye corners", wandered, "px")]


def _turns(model: TalkingModel, face: Face, dialogue: Talk) -> list[Result]:
    """One face with the mixed sound and its own turns: lips in the others' turns over lips in its own."""
    voice = talk.encode_audio(Waveform(samples=dialogue.mixed), model.config)
    found, fps = [], float(model.config.fps)
    for kind in KINDS:
        speech = talk.select_speaking(voice, turns=parse_rttm(dialogue.rttm), name=dialogue.names[0], silence=kind)
        gap = _seen(model, face, speech, 0).gap
        own, other = (_settled(spans, len(gap), fps) for spans in (dialogue.turns.spans(name) for name in dialogue.names))
        ratio = float(np.nanstd(gap[other]) / np.nanstd(gap[own]))
        found.append(result(
            f"{kind} silence: lip gap std in the other's turns over its own, mixed sound and RTTM", ratio, "", f"<= {MAX_RATIO}",
            ratio <= MAX_RATIO))
    return found


def _settled(spans: tuple[Span, ...], frames: int, fps: float) -> np.ndarray:
    """Frames (T,) inside spans, away from their ends."""
    return inside(tuple((a + SETTLED_S, b - SETTLED_S) for a, b in spans if b - a > 2 * SETTLED_S), frames, fps)


# -- flags ----------------------------------------------------------------------------------------------------------------


def conversations(corpus: Path, turn_s: float) -> list[Talk]:
    """Every held-out voice with the next one; InputError for a single voice."""
    spoken = sorted(held_sounds(corpus, TURNS * PAIRS, turn_s), key=_voice)
    voices = {name: list(sounds) for name, sounds in groupby(spoken, _voice)}
    full = [name for name, sounds in voices.items() if len(sounds) >= TURNS]
    if len(full) < 2:
        raise InputError("corpus", corpus, f"{len(full)} held-out voices with {TURNS} turns of {turn_s:g} s", "use shorter --seconds")
    return [converse((a, b), (voices[a][:TURNS], voices[b][:TURNS])) for a, b in zip(full, [*full[1:], full[0]], strict=True)][:PAIRS]


def _voice(sound: Sound) -> str:
    return sound.name.rsplit("-", 1)[0]


def converse(names: tuple[str, str], sounds: tuple[list[Sound], list[Sound]]) -> Talk:
    """Two voices in turn, a pause after each."""
    order = [(who, sound) for pair in zip(*sounds, strict=True) for who, sound in enumerate(pair)]
    pause = round(BETWEEN_S * RATE)
    total = sum(len(sound.samples) + pause for _, sound in order)
    phones: tuple[list[Phone], list[Phone]] = ([], [])
    tracks, turns, at = np.zeros((2, total), np.float32), [], 0
    for who, sound in order:
        tracks[who, at : at + len(sound.samples)] = sound.samples
        moved = [Phone(p.name, p.start + at / RATE, p.end + at / RATE) for p in sound.phones]
        phones[who].extend(moved)
        turns.append(Turn(speaker=names[who], start_s=moved[0].start, end_s=moved[-1].end))
        at += len(sound.samples) + pause
    spans = [tuple(_closed((p.start, p.end) for p in part)) for part in phones]
    return Talk(names=names, tracks=(tracks[0], tracks[1]), truth=(spans[0], spans[1]), turns=SpeakingTurns(turns=tuple(turns)))


def _closed(spans: Iterable[Span]) -> list[Span]:
    """Spans with gaps below a pause closed."""
    half = PAUSE_S / 2
    return [(a + half, b - half) for a, b in merged((a - half, b + half) for a, b in spans)]


def inside(spans: tuple[Span, ...], frames: int, fps: float) -> np.ndarray:
    """(T,) whether the middle of each frame lies in a span."""
    middle = (np.arange(frames) + 0.5) / fps
    return np.any([(middle >= a) & (middle < b) for a, b in spans], axis=0) if spans else np.zeros(frames, bool)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Share of frames where flag and truth agree, and of the other's own frames those that are flagged all the same."""

    right: float
    wrong: float


def agreement(speech: talk.Speaker, own: tuple[Span, ...], other: tuple[Span, ...]) -> Agreement:
    """Of one speaker's flags."""
    frames, fps = speech.voice.num_frames, float(speech.voice.timeline.fps)
    said, mine = inside(speech.spans, frames, fps), inside(own, frames, fps)
    theirs = inside(other, frames, fps) & ~mine
    return Agreement(right=float((said == mine).mean()), wrong=float(said[theirs].mean()))


def _flags(model: TalkingModel, talks: list[Talk]) -> list[Result]:
    ways: dict[str, Callable[[Talk, int], talk.Speaker]] = {
        "separate tracks": lambda t, i: _auto(model, t.tracks[i]),
        **{
            f"separate tracks with noise {-db:g} dB under the voice": partial(_noisy_tracks, model, db) for db in NOISES_DB},
        "mixed track split by RTTM": lambda t, i: _auto(model, split_conversation(t.mixed, RATE, parse_rttm(t.rttm), t.names)[i]),
        "mixed track, flags by RTTM": lambda t, i: talk.select_speaking(
            talk.encode_audio(Waveform(samples=t.mixed), model.config), turns=parse_rttm(t.rttm), name=t.names[i]),
    }
    found = [result("conversations of two voices in turn", len(talks), f"{sum(t.mixed.size for t in talks) / RATE:.0f} s")]
    for name, way in ways.items():
        scores = [agreement(way(t, i), t.truth[i], t.truth[1 - i]) for t in talks for i in (0, 1)]
        right, wrong = fmean(s.right for s in scores), max(s.wrong for s in scores)
        found += [
            result(f"{name}: frames right, mean", right, "share", f">= {MIN_ACCURACY}", right >= MIN_ACCURACY),
            result(f"{name}: the other's frames flagged, worst", wrong, "share", f"<= {MAX_WRONG}", wrong <= MAX_WRONG),
        ]
    return found


def _auto(model: TalkingModel, samples: np.ndarray) -> talk.Speaker:
    return talk.select_speaking(talk.encode_audio(Waveform(samples=samples), model.config))


def _noisy_tracks(model: TalkingModel, noise_db: float, dialogue: Talk, index: int) -> talk.Speaker:
    samples = dialogue.tracks[index]
    level = float(np.sqrt((samples[samples != 0] ** 2).mean())) * 10 ** (noise_db / 20)
    noise = np.random.default_rng(index).standard_normal(len(samples)) * level
    return _auto(model, np.asarray(samples + noise, np.float32))
