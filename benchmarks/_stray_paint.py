"""Paint beyond the lips: on every held-out picture, what of a finished frame is no warp of the picture and lies off the mouth.

What is paint is found by the drawing itself: the same latents are drawn twice more, the mouth's inside once all black and once all white.
Where these two frames are the same to the bit, the pixel comes from the picture alone; every other one is paint. Where the lips are, our
face mesh says of the frame as it is shown, which knows nothing of the contours that the mouth is drawn by. Lids and eyes, which rules
draw, are not looked at. Part of bench looks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from benchmarks._common import Result, result, say
from benchmarks._corpus import Sound
from benchmarks._held_kinds import further_looks, held_entries, speaking_stream
from benchmarks._truth import look_at
from tm_core import talk
from tm_core.errors import InputError
from tm_core.face.topology import CHIN, FOREHEAD, OUTER_LIPS
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.streaming.handles import DecodedStream
from tm_core.vae.mouth_head import TEXTURE, MouthHead
from tm_core.vae.tiny import TinyVAE

PAINT_S = 4.0  # of speech
WIDER = 0.03  # of the face's height: how far beyond the lips' outer contour paint may lie
BLACK, WHITE = 0.0, 1.0


@dataclass(frozen=True, kw_only=True)
class PaintVerdict:
    """What the frames of one picture show."""

    name: str
    outcome: str  # drawn, refused
    stray: int = 0  # pixels off the lips, in all frames
    worst: int = -1  # the frame with most of them
    painted: int = 0  # pixels of paint, in all frames
    unseen: int = 0  # frames with paint in which the mesh finds no face

    @property
    def line(self) -> str:
        """What is said of it."""
        if self.outcome == "refused":
            return "refused, nothing drawn"
        more = f", frame {self.worst} has most" * (self.stray > 0) + f", {self.unseen} frames without a face" * (self.unseen > 0)
        return f"{self.stray} stray of {self.painted} painted pixels{more}"


def paint_rows(model: TalkingModel, sound: Sound) -> list[Result]:
    """A row for each held-out picture; InputError without the pictures, and for weights without a mouth head."""
    if not isinstance(model.vae, TinyVAE) or not isinstance(model.vae.mouth, MouthHead):
        raise InputError("weights", model.config.name, "have no mouth head", "use the bundled weights")
    found = []
    for entry in held_entries():
        verdict = paint_verdict(model, str(entry["file"]).removesuffix(".png"), open_image(entry["path"]), sound)
        say(f"{verdict.name}: {verdict.line}")
        found.append(verdict)
    return verdict_rows(found)


def verdict_rows(found: list[PaintVerdict]) -> list[Result]:
    """Every picture has to have none."""
    drawn = [v for v in found if v.outcome == "drawn"]
    rows = [
        result(f"stray paint, {v.name}", v.stray, f"px; {v.line}", "0", v.stray == 0 and v.unseen == 0) if v.outcome == "drawn"
        else result(f"stray paint, {v.name}", v.line, "") for v in found]
    bad = sum(v.stray > 0 or v.unseen > 0 for v in drawn)
    return [
        *rows, result("held-out pictures with stray paint", bad, f"of {len(drawn)} drawn", "0", bad == 0),
        result("painted pixels looked at", sum(v.painted for v in drawn), "")]


def paint_verdict(model: TalkingModel, name: str, picture: np.ndarray, sound: Sound) -> PaintVerdict:
    """Of one picture (H, W, 3) uint8."""
    try:
        _, stream = speaking_stream(model, picture, sound)
    except InputError:
        return PaintVerdict(name=name, outcome="refused")
    assert isinstance(model.vae, TinyVAE)
    streams = [stream, *(talk.decode_stream(stream.latents, vae=in_one_colour(model.vae, colour)) for colour in (BLACK, WHITE))]
    shown, black, white = (np.concatenate(list(_faces(s))) for s in streams)
    painted = (black != white).any(-1)
    off, unseen = off_shown_lips(painted, shown, _landmarks_in_box(stream))
    return PaintVerdict(
        name=name, outcome="drawn", stray=int(off.sum()), worst=int(off.argmax()) if off.any() else -1, painted=int(painted.sum()),
        unseen=unseen)


def in_one_colour(vae: TinyVAE, colour: float) -> TinyVAE:
    """The same autoencoder, the inside of its mouths of one grey: the portrait's own teeth are fetched from it as before."""
    other = copy.deepcopy(vae)
    assert isinstance(other.mouth, MouthHead)
    other.mouth.textures = partial(_plain, colour)  # type: ignore[method-assign]
    return other


def _plain(colour: float, tint: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((len(tint), 4, *TEXTURE), colour).to(tint), torch.full((len(tint), 3, *TEXTURE), colour).to(tint)


def _faces(stream: DecodedStream) -> Iterator[np.ndarray]:
    """The part of the frames that may move, (T, h, w, 3) each."""
    x0, y0, x1, y1 = _pixel_box(stream)
    for chunk in stream:
        yield chunk.frames[:, y0 : y1 + 1, x0 : x1 + 1]


def _pixel_box(stream: DecodedStream) -> tuple[int, int, int, int]:
    assert stream.view is not None
    x0, y0, x1, y1 = (max(0, int(np.floor(v))) for v in stream.view.box)
    return x0, y0, x1, y1


def _landmarks_in_box(stream: DecodedStream) -> np.ndarray:
    """(468, 3) of the picture, in the pixels of that part."""
    assert stream.view is not None
    return stream.view.landmarks - np.array([*_pixel_box(stream)[:2], 0], np.float32)


def off_shown_lips(painted: np.ndarray, shown: np.ndarray, portrait: np.ndarray) -> tuple[np.ndarray, int]:
    """As `off_lips`, by the finished frames (T, h, w, 3). Where one look of the mesh finds paint off the lips, or no face, the middle of
    five says where they are: turned faces and paintings shift a single look by more than the margin. A face that no frame shows to the
    mesh is looked for where it was found in the picture: at `portrait` (468, 3)."""
    landmarks = look_at(shown).landmarks
    off, unseen = off_lips(painted, landmarks)
    doubted = np.flatnonzero((off > 0) | (painted.any((1, 2)) & np.isnan(landmarks[:, 0, 0])))
    if not len(doubted):
        return off, unseen
    known = portrait[None].repeat(len(landmarks), 0) if np.isnan(landmarks[:, 0, 0]).all() else landmarks
    landmarks[doubted] = np.median(further_looks(shown, known)[:, doubted], 0)
    return off_lips(painted, landmarks)


def off_lips(painted: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, int]:
    """(T,) painted pixels (T, h, w) off the widened outer contours of landmarks (T, 468, 3); and frames of which nobody can say."""
    counts, unseen = np.zeros(len(painted), int), 0
    for t in np.flatnonzero(painted.any((1, 2))):
        if np.isnan(landmarks[t, 0, 0]):
            unseen += 1
            continue
        mouth = Image.new("1", painted.shape[:0:-1])
        ImageDraw.Draw(mouth).polygon([(float(x), float(y)) for x, y in landmarks[t, list(OUTER_LIPS), :2]], fill=1, outline=1)
        inside = np.asarray(mouth)
        height = float(np.linalg.norm(landmarks[t, CHIN, :2] - landmarks[t, FOREHEAD, :2]))
        away = distance_transform_edt(~inside) if inside.any() else np.full(inside.shape, np.inf)
        counts[t] = int((painted[t] & (away > WIDER * height)).sum())
    return counts, unseen
