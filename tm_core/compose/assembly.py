"""Streams made apart, put onto one canvas: their places, their times and the mix of their sounds.

Non-goals: painting (canvas), mixing (mix). Shapes: H x W canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import ImageColor

from ..errors import InputError
from ..media.audio_io import Waveform
from ..media.sound_reader import SoundSource
from ..streaming.handles import StreamMeta
from ..timeline import Timeline
from .canvas import Box, ComposedStream, FrameStream, Layer, soft_edge
from .mix import Track, distinct, write_mix

MOST_SIDE = 8192


def mixed(tracks: Sequence[Track], seconds: float, folder: Path | None, name: str) -> SoundSource | Waveform:
    """One sound of several. A single one as it is passes through; else a wave file NAME in `folder`, which must be given."""
    tracks = distinct(tracks)
    if len(tracks) == 1 and (only := tracks[0]) == Track(sound=only.sound):
        return only.sound
    if folder is None:
        raise InputError("sound", f"{len(tracks)} voices", "a mix needs a place to be kept", "give a folder for it")
    return write_mix(tracks, seconds, folder / name)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A stream's place on a canvas, in pixels from its upper left corner; a size of 0 keeps the stream's own."""

    frames: FrameStream
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


class Layers(tuple[Placement, ...]):
    """The streams of a canvas, in the order they were added."""


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
             sound_name: str = "mix.wav") -> FrameStream:
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
