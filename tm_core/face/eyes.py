"""Eyes of a picture: lids closed as far as one likes, irises turned, and whether anything covers them.

The skin between crease and lashes is stretched down over the eye, as far as the lid is closed; what lies in the opening moves
aside for a glance. A picture so changed stands for the portrait while a face blinks or glances (life).
Where something covers the eyes or the skin above them (`eyes_covered`: a hat's brim, a visor, sunglasses, hair), it would be
stretched in the skin's place, so such a portrait does not blink.
Non-goals: when (life), winks, eyes that are shut already. No section of the paper.

Shapes: H x W picture, landmarks (468, 3) in its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .filters import sample_bilinear

# outer corner to inner corner, of the eye on the left of the picture and of the one on the right
UPPER = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LOWER = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
CREASE = ((226, 247, 30, 29, 27, 28, 56, 190, 243), (446, 467, 260, 259, 257, 258, 286, 414, 463))
CHEEK = ((50, 101, 118, 117, 205, 36), (280, 330, 347, 346, 425, 266))
CHEEK_PATCH, STEPS = 2, 9  # pixels round a point of the cheek; samples between two curves
# Of the bundled and 24 other portraits at 128 pixels whose eyes are in sight: lids and what is above the crease are 0.24 to 1.08 as
# bright as the cheek, red is at most 0.093 less of them, and what lies in the opening differs from the lid by 0.104 of the cheek's
# brightness or more. A straw hat's brim over the eyes: 0.17 to 0.21, 0.08 to 0.16, 0.04.
BRIGHT, LESS_RED, LEAST_CONTRAST = (0.15, 1.2), 0.1, 0.09
LEAST_OPENING = 0.8  # pixels: below it an eye is shut, or too small to be drawn

Doubles = NDArray[np.float64]


def eyes_covered(picture: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether something else than skin lies between crease and lashes of an eye, or hides it, in a portrait (H, W, 3), 0 to 255."""
    points = landmarks[:, :2].astype(np.float64)
    eyes = zip(UPPER, LOWER, CREASE, CHEEK, strict=True)
    return any(_covered(picture, *(points[list(curve)] for curve in eye)) for eye in eyes)


def _covered(picture: np.ndarray, upper: Doubles, lower: Doubles, crease: Doubles, cheek: Doubles) -> bool:
    """One eye; the corners, where the curves meet, are left out."""
    upper, lower, crease = upper[1:-1], lower[1:-1], crease[1:-1]
    offsets = np.stack(np.meshgrid(*[np.arange(-CHEEK_PATCH, CHEEK_PATCH + 1)] * 2), -1).reshape(-1, 1, 2)
    cheek_skin = np.median(_at(picture, (cheek + offsets).reshape(-1, 2)), 0)
    lid = np.median(_between(picture, crease, upper), 0)
    above = np.median(_between(picture, crease - (upper - crease) / 2, crease + (upper - crease) / 2), 0)
    contrast = np.abs(_between(picture, upper, lower) - lid).mean() / max(cheek_skin.mean(), 1.0)
    return bool(contrast < LEAST_CONTRAST) or not (_like_skin(lid, cheek_skin) and _like_skin(above, cheek_skin))


def _like_skin(colour: Doubles, cheek: Doubles) -> bool:
    """Whether a colour (3,) may be that of a lid beside a cheek's: in its shadow or painted, but no cloth, metal or hair."""
    less_red = cheek[0] / max(cheek.sum(), 1.0) - colour[0] / max(colour.sum(), 1.0)
    return bool(BRIGHT[0] <= colour.mean() / max(cheek.mean(), 1.0) <= BRIGHT[1] and less_red <= LESS_RED)


def _between(picture: np.ndarray, first: Doubles, second: Doubles) -> Doubles:
    """Colours (N, 3) between two curves (P, 2)."""
    share = np.linspace(0.1, 0.9, STEPS)[:, None, None]
    return _at(picture, (first * (1 - share) + second * share).reshape(-1, 2))


def _at(picture: np.ndarray, places: Doubles) -> Doubles:
    """Colours (N, 3) of a picture at places (N, 2)."""
    return sample_bilinear(picture, places[:, 0], places[:, 1])


def eye_box(landmarks: np.ndarray, eye: int, margin: float) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) round an eye (0: on the left of the picture) and its lids, `margin` eye widths more on every side."""
    points = landmarks[[*UPPER[eye], *LOWER[eye], *CREASE[eye]], :2].astype(np.float64)
    room = margin * float(np.hypot(*(landmarks[UPPER[eye][0], :2] - landmarks[UPPER[eye][-1], :2])))
    (x0, y0), (x1, y1) = points.min(0) - room, points.max(0) + room
    return float(x0), float(y0), float(x1), float(y1)


def turn_eyes(frame: np.ndarray, landmarks: np.ndarray, glance: tuple[float, float], eyes: Sequence[int] = (0, 1)) -> np.ndarray:
    """A frame (H, W, 3) uint8 whose eyes look aside by `glance`, right and down in eye widths; lids and corners stay."""
    if glance == (0.0, 0.0):
        return frame
    out: np.ndarray = frame.astype(np.float32)
    points = landmarks[:, :2].astype(np.float64)
    for eye in eyes:
        _turn(out, points[list(UPPER[eye])], points[list(LOWER[eye])], np.array(glance))
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def _turn(image: np.ndarray, upper: Doubles, lower: Doubles, glance: Doubles) -> None:
    """One eye, in place: most in the middle of the opening, nothing at its edge."""
    along, down, span = _axes(upper[0], upper[-1], lower.mean(0))
    if span < 2 or float((lower - upper) @ down @ np.ones(len(upper))) / len(upper) < LEAST_OPENING:
        return
    points = np.concatenate([upper, lower])
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, [image.shape[1], image.shape[0]])
    place = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1)
    s, t = (place - upper[0]) @ along, (place - upper[0]) @ down
    high, low = (_curve(curve - upper[0], along, down, s) for curve in (upper, lower))
    across = np.clip(1 - (2 * s / span - 1) ** 2, 0, 1)
    within = np.clip((t - high) / np.maximum(low - high, 1e-3), 0, 1)
    share = across * np.clip(4 * within * (1 - within), 0, 1) ** 0.5
    at = place - (share[..., None] * glance * span)
    drawn = np.asarray(sample_bilinear(image, at[..., 0], at[..., 1]), image.dtype)
    image[y0:y1, x0:x1] = np.where((share > 0)[..., None], drawn, image[y0:y1, x0:x1])


def close_lids(frame: np.ndarray, landmarks: np.ndarray, closure: float, eyes: Sequence[int] = (0, 1)) -> np.ndarray:
    """A frame (H, W, 3) uint8 with the lids of these eyes closed by `closure` (0 open, 1 shut)."""
    if closure <= 0:
        return frame
    out: np.ndarray = frame.astype(np.float32)
    points = landmarks[:, :2].astype(np.float64)
    for eye in eyes:
        _close(out, points[list(UPPER[eye])], points[list(LOWER[eye])], points[list(CREASE[eye])], closure)
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def _close(image: np.ndarray, upper: Doubles, lower: Doubles, crease: Doubles, closure: float) -> None:
    """One eye, in place; curves (9, 2) from the outer to the inner corner."""
    along, down, span = _axes(upper[0], upper[-1], lower.mean(0))
    if span < 2 or float((lower - upper) @ down @ np.ones(len(upper))) / len(upper) < LEAST_OPENING / 2:
        return
    points = np.concatenate([upper, lower, crease])
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, [image.shape[1], image.shape[0]])
    grid = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1) - upper[0]
    s, t = grid @ along, grid @ down
    high, low, top = (_curve(curve - upper[0], along, down, s) for curve in (upper, lower, crease))
    lid = high + closure * (low - high)
    stretch = np.clip((t - top) / np.maximum(lid - top, 1e-3), 0, 1)
    source = top + stretch * (high - top)
    inside = (s > 0) & (s < span) & (t > top)
    moved = np.where(inside, source - t, 0.0)[..., None] * down
    at = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1) + moved
    share = np.where(inside, np.clip(lid - t + 0.5, 0, 1), 0.0)[..., None]
    drawn = np.asarray(sample_bilinear(image, at[..., 0], at[..., 1]), image.dtype)
    image[y0:y1, x0:x1] += share * (drawn - image[y0:y1, x0:x1])


def _axes(outer: Doubles, inner: Doubles, below: Doubles) -> tuple[Doubles, Doubles, float]:
    """Unit vectors along the eye and down across it, and its width."""
    span = float(np.hypot(*(inner - outer)))
    along = (inner - outer) / max(span, 1e-6)
    down = np.array([-along[1], along[0]])
    return along, down if (below - outer) @ down > 0 else -down, span


def _curve(curve: Doubles, along: Doubles, down: Doubles, s: Doubles) -> Doubles:
    """Height of a curve at places along the eye."""
    x = curve @ along
    order = np.argsort(x)
    return np.asarray(np.interp(s, x[order], (curve @ down)[order]))
