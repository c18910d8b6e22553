"""Who speaks in a scene: two, three and four held-out faces of one picture, each with a held-out voice of its own.

Two scenes for every number of faces. In one they take turns: while one speaks, the lips of the others must rest. In the other
all speak at once, and each mouth must follow its own voice as well as it does alone, and swapping two voices must swap the
mouths. Pixels outside the crops are compared with the picture. `--seconds` is the length of a turn, and of the speech of all;
`--out` keeps the scenes as videos. The corpora lie in build/corpus, or where TM_CORPUS says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks._common import Result, load, result, say
from benchmarks._corpus import Face, Sound, held_faces, held_sounds
from benchmarks._truth import Seen, corpus_folder, look_at, waveform
from tm_core import talk
from tm_core.compose.mix import write_mix
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.media.video_io import VideoWriter
from tm_core.metrics.lip_sync import opening_curve, sync_score
from tm_core.streaming.handles import DecodedStream
from tm_core.weights.loading import TalkingModel

COUNTS, SECONDS, CELL, GAP = (2, 3, 4), 4.0, 320, 20
MAX_REST, MAX_LOSS = 0.10, 0.10
EDGE_S = 0.2  # at either end of a turn: mouths need it to close


@dataclass(frozen=True, kw_only=True)
class Group:
    """A picture of several faces, and each face cut from it."""

    picture: np.ndarray
    subjects: tuple[talk.Portrait, ...]


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """Every scene; InputError without the corpora."""
    length = seconds or SECONDS
    faces, sounds = held_faces(corpus_folder()), held_sounds(corpus_folder(), max(COUNTS), length)
    model = load(weights, device)
    rows: list[Result] = []
    for i, count in enumerate(COUNTS):
        chosen = [faces[(i + k) % len(faces)] for k in range(count)]
        group = compose(model, chosen)
        say(f"{count} faces: {', '.join(f.name for f in chosen)}")
        rows += turns(model, group, sounds[:count], length, out) + chorus(model, group, sounds[:count], length, out)
    return rows


def compose(model: TalkingModel, faces: Sequence[Face]) -> Group:
    """Portraits in a row, each as large as the others; cut where they stand, so that finding faces is not measured."""
    picture = np.full((CELL + 2 * GAP, len(faces) * (CELL + GAP) + GAP, 3), 70, np.uint8)
    subjects = []
    for i, face in enumerate(faces):
        cell = np.asarray(Image.fromarray(_square(open_image(face.path))).resize((CELL, CELL), Image.Resampling.LANCZOS))
        left = GAP + i * (CELL + GAP)
        picture[GAP : GAP + CELL, left : left + CELL] = cell
        subject = talk.prepare_portrait(cell, model.config)
        x0, y0, x1, y1 = subject.crop.box
        moved = replace(subject.crop, box=(x0 + left, y0 + GAP, x1 + left, y1 + GAP))
        subjects.append(replace(subject, crop=moved))
    return Group(picture=picture, subjects=tuple(subjects))


def _square(picture: np.ndarray) -> np.ndarray:
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 4, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side]


def cast_of(model: TalkingModel, group: Group, speeches: Sequence[tuple[Waveform, np.ndarray | None]]) -> list[talk.Character]:
    """Characters with these sounds; flags (F,) say when they speak, None: always."""
    cast = []
    for i, (subject, (sound, flags)) in enumerate(zip(group.subjects, speeches, strict=True)):
        speech = talk.select_speaking(talk.encode_audio(sound, model.config), "speaking")
        speech = speech if flags is None else replace(speech, flags=flags)
        cast.append(talk.Character(portrait=subject, speaker=speech, name=f"face {i}"))
    return cast


def rendered(model: TalkingModel, group: Group, cast: Sequence[talk.Character], name: str, out: Path | None) -> np.ndarray:
    """All frames of a scene (T, H, W, 3)."""
    sound = cast[0].speaker.voice.waveform
    frames = np.concatenate([c.frames for c in talk.scene_stream(model, group.picture, cast, sound).chunks()])
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        mixed = write_mix([c.track for c in cast], len(frames) / model.config.fps, out / f"{name}.wav")
        with VideoWriter(out / f"{name}.mp4", frames.shape[2], frames.shape[1], model.config.fps, audio=mixed) as writer:
            writer.write(frames)
    return frames


def look_at_face(frames: np.ndarray, subject: talk.Portrait) -> Seen:
    """One face of a scene, cropped where it was pasted."""
    x0, y0, x1, y1 = (round(v) for v in subject.crop.box)
    return look_at(np.ascontiguousarray(frames[:, max(0, y0) : y1, max(0, x0) : x1]))


# -- taking turns -----------------------------------------------------------------------------------------------


def turns(model: TalkingModel, group: Group, sounds: Sequence[Sound], length: float, out: Path | None) -> list[Result]:
    """One speaks after the other, all hear the whole conversation."""
    count, whole = len(sounds), round(length * 16000)
    joined = np.concatenate([s.samples[:whole] for s in sounds])
    timeline = talk.timeline_of(model.config)
    frames = count * round(length * model.config.fps)
    latents = timeline.num_latents(frames)
    owner = np.array([min(count - 1, timeline.frames_of_latent(i).start * count // frames) for i in range(latents)])
    cast = cast_of(model, group, [(Waveform(samples=joined), owner == i) for i in range(count)])
    made = rendered(model, group, cast, f"turns_{count}", out)
    gaps = [look_at_face(made, s).gap for s in group.subjects]
    rest = [r for i, gap in enumerate(gaps) for r in _rest_ratios(gap, i, count, model.config.fps)]
    worst, middle = max(rest), median(rest)
    what = f"{count} faces: lip motion at rest over speaking, median (worst {worst:.2f})"
    return [result(what, middle, "share", f"<= {MAX_REST}", middle <= MAX_REST), _untouched(made, group, count)]


def _rest_ratios(gap: np.ndarray, face: int, count: int, fps: float) -> list[float]:
    """Spread of a face's lip gap in the others' turns over that in its own."""
    parts = np.array_split(gap, count)
    edge = round(EDGE_S * fps)
    spread = [float(np.nanstd(part[edge:-edge])) for part in parts]
    return [s / spread[face] for i, s in enumerate(spread) if i != face]


def _untouched(made: np.ndarray, group: Group, count: int) -> Result:
    outside = np.ones(group.picture.shape[:2], bool)
    for subject in group.subjects:
        x0, y0, x1, y1 = subject.crop.box
        outside[max(0, int(y0)) : int(np.ceil(y1)), max(0, int(x0)) : int(np.ceil(x1))] = False
    changed = int((made[:, outside] != group.picture[outside]).any(-1).sum())
    return result(f"{count} faces: pixels changed outside the crops", changed, f"of {outside.sum() * len(made)}", "0", changed == 0)


# -- all at once ------------------------------------------------------------------------------------------------


def chorus(model: TalkingModel, group: Group, sounds: Sequence[Sound], length: float, out: Path | None) -> list[Result]:
    """All speak; then with the voices handed on by one."""
    count = len(sounds)
    voices = [waveform(s) for s in sounds]
    straight = rendered(model, group, cast_of(model, group, [(v, None) for v in voices]), f"chorus_{count}", out)
    swapped = rendered(model, group, cast_of(model, group, [(v, None) for v in [*voices[1:], voices[0]]]), f"swapped_{count}", out)
    alone = [np.concatenate([c.frames for c in _alone(model, *member)]) for member in zip(group.subjects, voices, strict=True)]
    own, single, won = [], [], 0
    for i, subject in enumerate(group.subjects):
        one, other = look_at_face(straight, subject).gap, look_at_face(swapped, subject).gap
        own.append(_r(one, sounds[i], model.config.fps))
        single.append(_r(look_at(alone[i]).gap, sounds[i], model.config.fps))
        following = sounds[(i + 1) % count]
        won += _r(one, sounds[i], model.config.fps) > _r(one, following, model.config.fps)
        won += _r(other, following, model.config.fps) > _r(other, sounds[i], model.config.fps)
    loss = 1 - median(own) / median(single)
    return [
        result(f"{count} faces: lip r in the scene, median", median(own), ""),
        result(f"{count} faces: the same face alone", median(single), ""),
        result(f"{count} faces: lip r lost in the scene", loss, "share", f"<= {MAX_LOSS}", loss <= MAX_LOSS),
        result(f"{count} faces: mouths that follow their own voice, straight and swapped", won, f"of {2 * count}", "all", won == 2 * count)]


def _alone(model: TalkingModel, subject: talk.Portrait, voice: Waveform) -> DecodedStream:
    speech = talk.select_speaking(talk.encode_audio(voice, model.config), "speaking")
    return talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech)))


def _r(gap: np.ndarray, sound: Sound, fps: float) -> float:
    """How well lips follow a sound, at its best lag, over the frames both have."""
    curve = opening_curve(sound.phones, sound.samples, len(gap), float(fps))
    return sync_score(gap, curve, float(fps)).peak_r
