"""Pictures to be looked at and what is measured on them: held-out people speaking, mouths against truth, other kinds of pictures, life.

docs/looks.jpg: every held-out identity at the first place where the first held-out voice makes each sound; nothing
is picked by eye. docs/inputs.jpg: pictures unlike the training's (hidden or turned faces, drawings, renders) at
sounds of the same speech, under each a line that says whether it holds: the face is found, and its lips follow the
sound. docs/kinds.jpg: the corpus's held-out pictures of every kind in their own framing (_held_kinds). docs/mouth.jpg: mouths as they
should be above mouths as they are drawn, and the difference in figures (_mouth_truth). Two parts have figures alone: paint off the lips
on every held-out picture (_stray_paint), and what finished frames show of life (_living_faces). With `--out` all sheets go to that folder,
`--part` names one: identities, inputs, kinds, mouth, paint, life. Pictures that are in no repository come from ../shared (TM_SHARED).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from benchmarks._common import ROOT, Result, demo_portrait, load, result, say
from benchmarks._corpus import RATE, Face, Sound, held_faces, held_sounds
from benchmarks._held_kinds import kind_rows
from benchmarks._living_faces import LIFE_S, life_rows
from benchmarks._mouth_truth import MouthExam, mouth_rows
from benchmarks._sheet import row_sheet
from benchmarks._stray_paint import PAINT_S, paint_rows
from benchmarks._truth import Seen, corpus_folder, look_at, waveform
from tm_core import talk
from tm_core.errors import InputError
from tm_core.media.image_io import open_image
from tm_core.metrics.drift import UpperFace
from tm_core.metrics.lip_sync import opening_curve, sync_score
from tm_core.metrics.phones import Phone
from tm_core.weights.loading import TalkingModel

SIDE = 256  # pixels of a face on the first two sheets
PARTS = ("identities", "inputs", "kinds", "mouth", "paint", "life")
SOUNDS = ("AA", "IY", "UW", "OW", "M", "F", "S", "SIL")
IDENTITIES, SHOWN = 8, 6  # people of the first sheet, sounds of the second
LEAST_PHONE_S, LEAST_PAUSE_S = 0.06, 0.3
STRETCH_S, INPUT_S = 20.0, 8.0
MIN_FOUND, MIN_R, MIN_LIKENESS = 0.95, 0.5, 0.8  # a picture "holds" above these
SPARE = ("hidream_e1_1-2",)  # portraits of ../shared in no split of the corpus: they fill up the eight


@dataclass(frozen=True, kw_only=True)
class Input:
    """A picture to try, what it is, and whether it may be shown."""

    name: str
    picture: Callable[[], np.ndarray]  # (H, W, 3) uint8
    shown: bool = True


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a picture; frames for the sheet."""

    name: str
    holds: bool
    why: str
    frames: list[np.ndarray]

    @property
    def line(self) -> str:
        """The line under the picture."""
        return f"{self.name}: {'holds' if self.holds else 'breaks'}, {self.why}"


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
    part: Sequence[str] | None = None,
) -> list[Result]:
    """The sheets and figures; `seconds`: of sound, for all but identities and mouth. InputError, before anything is drawn, without the
    corpora or the training's inputs, and for a part that there is not."""
    if wrong := set(part or ()) - set(PARTS):
        raise InputError("part", sorted(wrong)[0], "is not one of this benchmark's", f"choose from {', '.join(PARTS)}")
    model, folder, chosen = load(weights, device), out or ROOT / "docs", part or PARTS
    exam = MouthExam.of(model) if "mouth" in chosen else None
    sound, at = speech_with(SOUNDS, held_sounds(corpus_folder(), 3, STRETCH_S))
    short = _cut(sound, seconds or INPUT_S)
    within = dict(islice(((n, t) for n, t in at.items() if t * RATE < len(short.samples)), SHOWN))
    makers = {
        "identities": lambda: _identities(model, sound, at, folder / "looks.jpg"),
        "inputs": lambda: _inputs(model, short, within, folder / "inputs.jpg"),
        "kinds": lambda: kind_rows(model, short, within, folder / "kinds.jpg"),
        "mouth": lambda: mouth_rows(exam, folder / "mouth.jpg") if exam else [],
        "paint": lambda: paint_rows(model, _cut(sound, seconds or PAINT_S)),
        "life": lambda: life_rows(model, seconds or LIFE_S)}
    return [row for name in PARTS if name in chosen for row in makers[name]()]


# -- identities ----------------------------------------------------------------------------------------


def moments(phones: Sequence[Phone], wanted: Sequence[str]) -> dict[str, float]:
    """Middle (s) of the first phone of each name that lasts; "SIL": of the first pause between two phones."""
    heard = [p for p in phones if p.name != "SIL"]
    found: dict[str, float] = {}
    for p in heard:
        if p.name in wanted and p.end - p.start >= LEAST_PHONE_S:
            found.setdefault(p.name, (p.start + p.end) / 2)
    for before, after in pairwise(heard):
        if "SIL" in wanted and after.start - before.end >= LEAST_PAUSE_S:
            found.setdefault("SIL", (before.end + after.start) / 2)
    return found


def speech_with(wanted: Sequence[str], sounds: Sequence[Sound]) -> tuple[Sound, dict[str, float]]:
    """The first sound, recordings first, that has everything wanted, and where; InputError for none."""
    for sound in sorted(sounds, key=lambda s: not s.real):
        at = moments(sound.phones, wanted)
        if len(at) == len(wanted):
            return sound, {name: at[name] for name in wanted}
    raise InputError("corpus", corpus_folder(), f"no held-out voice makes all of {', '.join(wanted)}", "make the corpora again, larger")


def people() -> list[Face]:
    """The held-out identities, filled up to eight with portraits the training never saw."""
    faces = held_faces(corpus_folder())
    spare = [Face(name=n, path=p) for n in SPARE if (p := _shared() / "assets" / "portraits" / f"{n}.webp").is_file()]
    return (faces + spare)[:IDENTITIES]


def _identities(model: TalkingModel, sound: Sound, at: dict[str, float], path: Path) -> list[Result]:
    faces, rows = people(), []
    gaps: dict[str, list[float]] = {name: [] for name in at}
    for i, face in enumerate(faces):
        say(face.name)
        video = speak(model, open_image(face.path), _cut(sound, max(at.values()) + 0.6), i)
        frames = frames_at(video, at, model.config.fps)
        for name, gap in zip(at, look_at(np.stack(frames)).gap, strict=True):
            gaps[name].append(float(gap))
        rows.append((face.name, frames))
    say(f"contact sheet: {row_sheet([f'{name} {t:.2f} s' for name, t in at.items()], rows, path)}")
    return [
        result("identities", len(faces), f"of {IDENTITIES}"), result("speech", sound.name, ""),
        *(result(f"lip gap at {name}, median", median(values), "of the face's height") for name, values in gaps.items())]


def speak(model: TalkingModel, picture: np.ndarray, sound: Sound, seed: int) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of a picture (H, W, 3) saying a sound; InputError where no face is found."""
    subject = talk.prepare_portrait(picture, model.config, face_index=largest_face(picture))
    speech = talk.select_speaking(talk.encode_audio(waveform(sound), model.config))
    stream = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech), seed=seed), framing="face", size=SIDE)
    return np.concatenate([chunk.frames for chunk in stream])


def largest_face(picture: np.ndarray) -> int | None:
    """Index of the largest face; None leaves the complaint to whoever needs one."""
    faces = talk.face_mesh().faces(picture)
    return max(range(len(faces)), key=lambda i: faces[i].extent) if faces else None


def frames_at(video: np.ndarray, at: dict[str, float], fps: float) -> list[np.ndarray]:
    """The frame that shows each moment."""
    return [video[min(int(t * fps), len(video) - 1)] for t in at.values()]


def _cut(sound: Sound, seconds: float) -> Sound:
    phones = [p for p in sound.phones if p.start < seconds]
    return Sound(name=sound.name, real=sound.real, samples=sound.samples[: round(seconds * RATE)], phones=phones)


# -- other pictures ------------------------------------------------------------------------------------


def inputs() -> list[Input]:
    """What there is to try here."""
    portraits = _shared() / "assets" / "portraits"
    files = {
        "photo-like, a smile with teeth": portraits / "hidream_e1_1-2.webp",
        "photo-like, a hand before an eye": portraits / "image_flux2-2.webp",
        "photo-like, a hat over the eyes": portraits / "api_kling_omni_image-1.webp",
        "photo-like, eyes closed, looking down": portraits / "api_openai_dall_e_3_t2i-1.webp",
        "3D render, bald": _shared() / "assets" / "visemes" / "rest.png",
        "drawing in ink": portraits / "image_anima_lllite_any_control_to_image-1.webp",
        "3D cartoon": portraits / "image_omnigen2_image_edit-2.webp"}
    made = {
        "the demo portrait as a pencil drawing": pencil, "the demo portrait, tilted 30 degrees": tilted,
        "the demo portrait, 40 pixels small": small, "a smiley": smiley}
    found = [Input(name=name, picture=partial(open_image, path)) for name, path in files.items() if path.is_file()]
    found += [Input(name=name, picture=make) for name, make in made.items()]
    return found


def _inputs(model: TalkingModel, sound: Sound, at: dict[str, float], path: Path) -> list[Result]:
    tried = [(entry, judge(model, entry, sound, at)) for entry in inputs()]
    for _, verdict in tried:
        say(verdict.line)
    rows = [(v.line, v.frames) for entry, v in tried if entry.shown]
    say(f"contact sheet: {row_sheet(['', *at], rows, path)}")
    return [result(v.name, ("holds" if v.holds else "breaks") + f": {v.why}", "") for _, v in tried]


def judge(model: TalkingModel, entry: Input, sound: Sound, at: dict[str, float]) -> Verdict:
    """Animate a picture and say whether it held."""
    picture = entry.picture()
    shown = np.asarray(ImageOps.fit(Image.fromarray(picture), (SIDE, SIDE)))
    try:
        seen = look_at(speak(model, picture, sound, 0))
    except InputError as error:
        return Verdict(name=entry.name, holds=False, why=error.rule, frames=[shown])
    found = float(np.mean(~np.isnan(seen.gap)))
    frames = [shown, *frames_at(seen.frames, at, model.config.fps)]
    if found < MIN_FOUND:
        return Verdict(name=entry.name, holds=False, why=f"the mesh sees a face in {found:.0%} of the frames", frames=frames)
    fps = float(model.config.fps)
    r = sync_score(seen.gap, opening_curve(sound.phones, sound.samples, len(seen.frames), fps), fps).peak_r
    alike = likeness(seen)
    return Verdict(
        name=entry.name, holds=r >= MIN_R and alike >= MIN_LIKENESS, frames=frames,
        why=f"face found, lip r {r:.2f}, likeness of the upper face {alike:.2f}")


def likeness(seen: Seen) -> float:
    """Median correlation of the upper face with frame 0."""
    known = np.flatnonzero(~np.isnan(seen.gap))
    first = UpperFace(seen.frames[known[0]], seen.landmarks[known[0]])
    return median(first.likeness(seen.frames[i], seen.landmarks[i]) for i in known[::5])


def pencil() -> np.ndarray:
    """The bundled portrait as strokes: grey divided by its own blurred negative."""
    grey = Image.fromarray(open_image(demo_portrait())).convert("L")
    soft = ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(6))
    values = np.asarray(grey, np.float64) * 255 / np.maximum(255 - np.asarray(soft, np.float64), 1)
    return np.asarray(Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB"))


def tilted() -> np.ndarray:
    """The bundled portrait, turned in the picture's plane."""
    picture = Image.fromarray(open_image(demo_portrait()))
    return np.asarray(picture.rotate(30, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90)))


def small() -> np.ndarray:
    """The bundled portrait with a face of about 40 pixels."""
    picture = open_image(demo_portrait())
    extent = max(f.extent for f in talk.face_mesh().faces(picture))
    side = round(picture.shape[0] * 40 / extent)
    return np.asarray(Image.fromarray(picture).resize((round(picture.shape[1] * 40 / extent), side), Image.Resampling.LANCZOS))


def smiley() -> np.ndarray:
    """A yellow disc with two eyes and a mouth."""
    picture = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 60, 340, 340), fill=(250, 210, 60), outline="black", width=6)
    for x in (150, 250):
        draw.ellipse((x - 16, 140, x + 16, 190), fill="black")
    draw.arc((130, 170, 270, 280), 20, 160, fill="black", width=8)
    return np.asarray(picture)


def _shared() -> Path:
    return Path(os.environ.get("TM_SHARED", ROOT.parent / "shared"))
