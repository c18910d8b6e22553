"""Several characters in one picture: faces brought to speech where they stand.

Models of faces animate a crop round every face and the crops are put back, so a face is the same alone and among others,
whatever its size in the picture; pixels outside the masks stay as they are, to the bit. Open checkpoints see the whole picture
and all speakers at once, each with a mask. Non-goals: finding faces (face), who speaks when (audio). Paper section 3.

Shapes: H x W picture, h x w a mask over its layer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..compose.canvas import Box, ComposedStream, FrameStream, Layer, apart, inner_sides, soft_edge
from ..compose.mix import Track
from ..errors import InputError
from ..face.portrait_crop import resample
from ..families.settings import Choices
from ..inputs import MAX_SEED
from ..media.audio_io import Waveform
from ..media.sound_reader import SoundSource
from ..media.video_io import playable_size
from ..model.talking import TalkingModel
from ..streaming.handles import DecodedStream
from .framing import shrunk, side_by_side, view_of
from .portrait import Portrait
from .scene import Prompt, build_scene
from .speaker import Speaker
from .stream import decode_stream, redrawn, sample_stream

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Character:
    """Somebody in a picture: the face, what is said and when, how loud and from where (`pan` -1 left to 1 right)."""

    portrait: Portrait
    speaker: Speaker
    name: str = ""
    gain_db: float = 0.0
    pan: float = 0.0

    @property
    def track(self) -> Track:
        """The voice in a mix; InputError for a sound that is still arriving."""
        sound = self.speaker.voice.sound
        if sound is None:
            raise InputError("sound", "a sound that is still arriving", "cannot be mixed", "end the sound first")
        return Track(sound=sound, gain_db=self.gain_db, pan=self.pan)


class Cast(tuple[Character, ...]):
    """The characters of a picture, in the order they were added."""


def together(characters: Sequence[Character]) -> list[Speaker]:
    """Everybody's speaker, all as long as the longest."""
    longest = max(c.speaker.voice.duration_s for c in characters)
    return [c.speaker.lasting(longest) for c in characters]


def scene_stream(
    model: TalkingModel, picture: np.ndarray, characters: Sequence[Character], sound: SoundSource | Waveform, *, seed: int = 0,
    choices: Choices | None = None, prompt: Prompt | None = None, device: str | torch.device | None = None, queue_depth: int = 2,
    blinks: bool = True, size: int | None = None,
) -> FrameStream:
    """A picture (H, W, 3) uint8 whose characters speak, carrying `sound`; nothing is sampled before a sink pulls.

    The video is the picture, its longer side at most `size` (1024 if None) for models of faces. Character i draws from seed + i,
    from 0 again after the highest. InputError for no character, or a face that two share.
    """
    if not characters:
        raise InputError("characters", 0, "a scene needs at least one", "connect a portrait and its speaker")
    _check_faces(characters)
    speakers, portraits = together(characters), [c.portrait for c in characters]
    if model.config.framing == "picture":
        others = list(zip(portraits[1:], speakers[1:], strict=True))
        built = build_scene(model, portraits[0], speakers[0], others=others, choices=choices, prompt=prompt)
        streams, portraits = [sample_stream(model, built, seed=seed)], portraits[:1]
    else:
        scenes = [build_scene(model, *member, choices=choices) for member in zip(portraits, speakers, strict=True)]
        streams = [sample_stream(model, built, seed=(seed + i) % (MAX_SEED + 1)) for i, built in enumerate(scenes)]
    frames = [decode_stream(stream, device=device, queue_depth=queue_depth, blinks=blinks) for stream in streams]
    return put_back(picture, frames, portraits, sound, size=size)


def put_back(
    picture: np.ndarray, frames: Sequence[FrameStream], portraits: Sequence[Portrait], sound: SoundSource | Waveform | None = None, *,
    size: int | None = None,
) -> FrameStream:
    """Animated faces where they were cut from; outside their soft-edged places the picture (H, W, 3) stays as it is, to the bit.

    Streams of models of faces are drawn anew, on the picture itself, its longer side at most `size` (1024 if None); other ones are
    resampled to their place in it. A picture larger than players take (media.video_io) is shrunk to what they do, and a warning
    says so. `sound` None: that of the first stream.
    """
    for portrait in portraits:
        _check_same_picture(picture, portrait)
    drawn = [f for f in frames if isinstance(f, DecodedStream) and f.view is not None]
    if len(drawn) == len(frames):
        return _drawn_in(picture, drawn, portraits, sound, size)
    picture, boxes = _playable(picture, [s.crop.box for s in portraits])
    masks = apart(boxes, [soft_edge(sides=inner_sides(box, (picture.shape[1], picture.shape[0]))) for box in boxes])
    layers = [
        Layer(frames=f, box=box, mask=mask, still=s.crop.image) for f, box, mask, s in zip(frames, boxes, masks, portraits, strict=True)]
    first = frames[0].meta
    audio = first.audio if sound is None else sound
    meta = replace(first, width=picture.shape[1], height=picture.shape[0], audio=audio)
    return ComposedStream(picture, layers, meta)


def _drawn_in(
    picture: np.ndarray, frames: Sequence[DecodedStream], portraits: Sequence[Portrait], sound: SoundSource | Waveform | None,
    size: int | None,
) -> FrameStream:
    views = shrunk([view_of(replace(portrait, picture=picture)) for portrait in portraits], size)
    canvas, layers = views[0].picture, []
    for stream, (view, box, own) in zip(frames, side_by_side(views), strict=True):
        layers.append(Layer(frames=redrawn(stream, view), box=box, mask=own))
    audio = frames[0].meta.audio if sound is None else sound
    warnings = tuple(f"face {i}: {w}" for i, portrait in enumerate(portraits) for w in portrait.doubts)
    meta = replace(frames[0].meta, width=canvas.shape[1], height=canvas.shape[0], audio=audio, warnings=warnings)
    return ComposedStream(canvas, layers, meta)


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


def _check_faces(characters: Sequence[Character]) -> None:
    for i, one in enumerate(characters):
        for j in range(i):
            a, b = one.portrait, characters[j].portrait
            if np.array_equal(a.crop.landmarks, b.crop.landmarks) and np.array_equal(a.mask, b.mask):
                names = f"characters {j} and {i}" + (f" ({characters[j].name}, {one.name})" if one.name else "")
                raise InputError("characters", names, "have the same face", "choose another face number for one of them")


def _check_same_picture(picture: np.ndarray, portrait: Portrait) -> None:
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = portrait.crop.box
    if (x0 + x1) / 2 > width or (y0 + y1) / 2 > height:
        raise InputError(
            "image", f"{width}x{height}", "the portrait was not cut from this picture", "connect the picture the portrait was made from")
