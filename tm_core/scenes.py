"""Several characters: faces of one picture brought to speech where they stand, or portraits made apart put onto one canvas.

Models of faces animate a crop round every face and the crops are put back, so a face is the same alone and among others,
whatever its size in the picture; pixels outside the masks stay as they are, to the bit. Open checkpoints see the whole picture
and all speakers at once, each with a mask. Non-goals: finding faces (face), who speaks when (audio). Paper section 3.

Shapes: H x W picture, h x w a mask over its layer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageColor

from . import app
from .errors import InputError
from .face.portrait import resample
from .media.audio_io import Waveform
from .media.image_io import open_image
from .media.mix import Track, distinct, write_mix
from .media.sound_reader import SoundSource
from .media.video_io import playable_size
from .model.talking import TalkingModel
from .settings import Choices
from .streaming.compose import Box, ComposedStream, Frames, Layer, apart, inner_sides, soft_edge
from .streaming.handles import StreamMeta
from .timeline import Timeline

log = logging.getLogger(__name__)

MOST_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class Character:
    """Somebody in a picture: the face, what is said and when, how loud and from where (`pan` -1 left to 1 right)."""

    subject: app.Subject
    speech: app.Speech
    name: str = ""
    gain_db: float = 0.0
    pan: float = 0.0

    @property
    def track(self) -> Track:
        """The voice in a mix."""
        voice = self.speech.voice
        return Track(sound=voice.sound, gain_db=self.gain_db, pan=self.pan)


def mixed(tracks: Sequence[Track], seconds: float, folder: Path | None, name: str) -> SoundSource | Waveform:
    """One sound of several. A single one as it is passes through; else a wave file NAME in `folder`, which must be given."""
    tracks = distinct(tracks)
    if len(tracks) == 1 and (only := tracks[0]) == Track(sound=only.sound):
        return only.sound
    if folder is None:
        raise InputError("sound", f"{len(tracks)} voices", "a mix needs a place to be kept", "give a folder for it")
    return write_mix(tracks, seconds, folder / name)


# -- one picture, several faces ---------------------------------------------------------------------------------


def together(characters: Sequence[Character]) -> list[app.Speech]:
    """Everybody's speech, all as long as the longest."""
    longest = max(c.speech.voice.duration_s for c in characters)
    return [c.speech.lasting(longest) for c in characters]


def scene_stream(
    model: TalkingModel, picture: np.ndarray, characters: Sequence[Character], sound: SoundSource | Waveform, *, seed: int = 0,
    choices: Choices | None = None, prompt: app.Prompt | None = None, device: str | torch.device | None = None, queue_depth: int = 2,
) -> Frames:
    """A picture (H, W, 3) uint8 whose characters speak, at its own size, carrying `sound`; nothing is sampled before a sink pulls.

    Character i draws from seed + i, from 0 again after the highest. InputError for no character, or a face that two share.
    """
    if not characters:
        raise InputError("characters", 0, "a scene needs at least one", "connect a portrait and its speaker")
    _check_faces(characters)
    speeches, subjects = together(characters), [c.subject for c in characters]
    if model.config.framing == "picture":
        others = list(zip(subjects[1:], speeches[1:], strict=True))
        built = app.build_scene(model, subjects[0], speeches[0], others=others, choices=choices, prompt=prompt)
        streams, subjects = [app.sample_stream(model, built, seed=seed)], subjects[:1]
    else:
        scenes = [app.build_scene(model, *member, choices=choices) for member in zip(subjects, speeches, strict=True)]
        streams = [app.sample_stream(model, built, seed=(seed + i) % (app.MAX_SEED + 1)) for i, built in enumerate(scenes)]
    frames = [app.decode_stream(stream, device=device, queue_depth=queue_depth) for stream in streams]
    return put_back(picture, frames, subjects, sound)


def put_back(
    picture: np.ndarray, frames: Sequence[Frames], subjects: Sequence[app.Subject], sound: SoundSource | Waveform | None = None,
) -> Frames:
    """Animated crops where they were cut from; outside their soft-edged places the picture (H, W, 3) stays as it is, to the bit.

    A picture larger than players take (media.video_io) is shrunk to what they do, and a warning says so. `sound` None: that of
    the first stream.
    """
    for subject in subjects:
        _check_same_picture(picture, subject)
    picture, boxes = _playable(picture, [s.portrait.box for s in subjects])
    masks = apart(boxes, [soft_edge(sides=inner_sides(box, (picture.shape[1], picture.shape[0]))) for box in boxes])
    layers = [
        Layer(frames=f, box=box, mask=mask, still=s.portrait.image) for f, box, mask, s in zip(frames, boxes, masks, subjects, strict=True)]
    first = frames[0].meta
    audio = first.audio if sound is None else sound
    meta = replace(first, width=picture.shape[1], height=picture.shape[0], audio=audio)
    return ComposedStream(picture, layers, meta)


def _playable(picture: np.ndarray, boxes: Sequence[Box]) -> tuple[np.ndarray, list[Box]]:
    """A picture (H, W, 3) at a size that players take, and boxes in it where they were."""
    height, width = picture.shape[:2]
    size = playable_size(width, height)
    if size == (width, height):
        return picture, list(boxes)
    log.warning("the picture of %d x %d pixels becomes a video of %d x %d: players take no larger ones", width, height, *size)
    kx, ky = size[0] / width, size[1] / height
    return resample(picture, (0.0, 0.0, float(width), float(height)), size), [
        (x0 * kx, y0 * ky, x1 * kx, y1 * ky) for x0, y0, x1, y1 in boxes]


def animate_in_place(image: Path, audio: Path, *, model: TalkingModel, face_index: int | None = None, **options: Any) -> Frames:
    """As `app.animate`, and the face put back into the picture it is in, at the picture's own size (see put_back)."""
    frames = app.animate(image, audio, model=model, face_index=face_index, **options)
    picture = open_image(image)
    return put_back(picture, [frames], [app.prepare_subject(picture, model.config, face_index=face_index)])


def _check_faces(characters: Sequence[Character]) -> None:
    for i, one in enumerate(characters):
        for j in range(i):
            a, b = one.subject, characters[j].subject
            if np.array_equal(a.portrait.landmarks, b.portrait.landmarks) and np.array_equal(a.mask, b.mask):
                names = f"characters {j} and {i}" + (f" ({characters[j].name}, {one.name})" if one.name else "")
                raise InputError("characters", names, "have the same face", "choose another face number for one of them")


def _check_same_picture(picture: np.ndarray, subject: app.Subject) -> None:
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = subject.portrait.box
    if (x0 + x1) / 2 > width or (y0 + y1) / 2 > height:
        raise InputError(
            "image", f"{width}x{height}", "the portrait was not cut from this picture", "connect the picture the portrait was made from")


# -- portraits made apart, one canvas ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A stream's place on a canvas, in pixels from its upper left corner; a size of 0 keeps the stream's own."""

    frames: Frames
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    z: int = 0
    soft: bool = False
    start_s: float = 0.0
    gain_db: float = 0.0
    pan: float = 0.0

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1)."""
        meta = self.frames.meta
        return float(self.x), float(self.y), float(self.x + (self.width or meta.width)), float(self.y + (self.height or meta.height))

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.start_s + self.frames.meta.duration_s

    @property
    def track(self) -> Track | None:
        """Its sound in the mix, None for a stream without one."""
        audio = self.frames.meta.audio
        return None if audio is None else Track(sound=audio, gain_db=self.gain_db, pan=self.pan, start_s=self.start_s)


def background(width: int, height: int, colour: str) -> np.ndarray:
    """A canvas (height, width, 3) of one colour; InputError for a colour or a size that is none."""
    for name, side in (("width", width), ("height", height)):
        if not 16 <= side <= MOST_SIDE:
            raise InputError(name, side, f"must be 16 to {MOST_SIDE} pixels", "use for example 1024")
    try:
        rgb = ImageColor.getrgb(colour)[:3]
    except ValueError as error:
        raise InputError("background", colour, "is no colour", "use a name such as black, or #rrggbb") from error
    return np.full((height, width, 3), rgb, np.uint8)


def assemble(canvas: np.ndarray, placements: Sequence[Placement], *, fps: float = 0.0, sound_folder: Path | None = None,
             sound_name: str = "mix.wav") -> Frames:
    """Streams on a canvas (H, W, 3) uint8 as one stream, as long as the last of them, with all their sounds mixed.

    `fps` 0: that of the first stream. The mix is kept in `sound_folder`, which must outlive the stream.
    """
    if not placements:
        raise InputError("layers", 0, "a canvas needs at least one stream", "connect one")
    for placement in placements:
        if placement.start_s < 0:
            raise InputError("start_s", placement.start_s, "a stream cannot begin before the video", "use 0 or more")
    rate = Fraction(fps).limit_denominator(1001) if fps else placements[0].frames.meta.fps
    seconds = max(p.end_s for p in placements)
    tracks = [track for p in placements if (track := p.track) is not None]
    audio = mixed(tracks, seconds, sound_folder, sound_name) if tracks else None
    layers = [Layer(frames=p.frames, box=p.box, mask=soft_edge() if p.soft else None, start_s=p.start_s, z=p.z) for p in placements]
    meta = StreamMeta(
        width=canvas.shape[1], height=canvas.shape[0], num_frames=max(1, round(seconds * rate)), timeline=Timeline(fps=rate),
        audio_s=seconds, audio=audio)
    return ComposedStream(canvas, layers, meta)
