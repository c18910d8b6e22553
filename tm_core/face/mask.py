"""Which part of a portrait the voice may move: the face region, the lips, a user's own mask, the token grid.

Paper section 3: the face mask multiplies the audio cross-attention's output. The region follows the mesh's
oval and reaches below the chin as far as a jaw opens. Non-goals: hair, whole heads, several speakers.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .filters import box_blur
from .networks import Box
from .portrait_crop import PortraitCrop, resample
from .topology import CHIN, FOREHEAD, OUTER_LIPS, OVAL

WIDER = 1.05  # of the oval: ears' edge and hairline move a little with the jaw
JAW_DROP = 0.08  # of the face's height, from forehead to chin
LIPS_WIDER = 1.25  # speech moves the skin round the lips as well
SUPERSAMPLING = 4
DEFAULT_FEATHER = 1 / 16  # of the size: half a token of the tiny model on each side


def face_mask(landmarks: np.ndarray, size: int | tuple[int, int], feather: float = DEFAULT_FEATHER) -> np.ndarray:
    """(height, width) float32 0..1 of landmarks (468, 3) in the crop's pixels; size: (width, height) or both.

    `feather`: soft edge, share of the width.
    """
    oval, centre = landmarks[list(OVAL), :2], landmarks[list(OVAL), :2].mean(0)
    down = (landmarks[CHIN, :2] - landmarks[FOREHEAD, :2]) * JAW_DROP
    lower = ((oval - centre) @ down > 0)[:, None]
    return _filled(centre + (oval - centre) * WIDER + lower * down, (size, size) if isinstance(size, int) else size, feather)


def lips_mask(landmarks: np.ndarray, size: int, feather: float = DEFAULT_FEATHER / 2) -> np.ndarray:
    """(size, size) float32 0..1 round the lips, opening range included; arguments as for `face_mask`."""
    lips, centre = landmarks[list(OUTER_LIPS), :2], landmarks[list(OUTER_LIPS), :2].mean(0)
    down = (landmarks[CHIN, :2] - landmarks[FOREHEAD, :2]) * JAW_DROP
    lower = ((lips - centre) @ down > 0)[:, None]
    return _filled(centre + (lips - centre) * LIPS_WIDER + lower * down, (size, size), feather)


def token_mask(mask: np.ndarray, token_hw: tuple[int, int]) -> np.ndarray:
    """(S,) float32: mean of a mask (H, W) over the area of each token, row by row."""
    rows, columns = (_area_weights(n, t) for n, t in zip(mask.shape, token_hw, strict=True))
    return np.asarray((rows @ mask.astype(np.float64) @ columns.T).reshape(-1), np.float32)


def crop_mask(mask: np.ndarray, portrait: PortraitCrop, picture_hw: tuple[int, int]) -> np.ndarray:
    """A user's mask (h, w) 0..1 over the whole picture, of any size, in the crop's pixels (H, W) float32."""
    if mask.ndim != 2:
        raise ValueError(f"expected a mask (h, w), got {mask.shape}")
    whole = np.clip(mask, 0, 1).astype(np.float32)
    height, width = picture_hw
    # the mask is laid over the whole picture, so the crop's box is stretched to its own pixel grid
    kx, ky = mask.shape[1] / width, mask.shape[0] / height
    size = portrait.image.shape[1], portrait.image.shape[0]
    if kx != ky:
        whole = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX if kx > 1 else Image.Resampling.BILINEAR))
        kx = ky = 1.0
    x0, y0, x1, y1 = portrait.box
    cropped = resample(whole, (x0 * kx, y0 * ky, x1 * kx, y1 * ky), size)
    return np.asarray(np.clip(cropped, 0, 1), np.float32)


def moved_mask(mask: np.ndarray, box: Box, frame: Box) -> np.ndarray:
    """A mask (H, W) of one crop of a picture as it lies in another crop, drawn at the same size; nothing where the two do not meet."""
    if box == frame:
        return mask
    height, width = mask.shape
    kx, ky = width / (box[2] - box[0]), height / (box[3] - box[1])
    x0, y0, x1, y1 = ((edge - box[i % 2]) * (kx, ky)[i % 2] for i, edge in enumerate(frame))
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return np.zeros_like(mask)
    room = [(int(np.ceil(max(0.0, -low))), int(np.ceil(max(0.0, high - n)))) for low, high, n in ((y0, y1, height), (x0, x1, width))]
    padded, (top, left) = np.pad(mask, room), (room[0][0], room[1][0])
    shifted = resample(padded.astype(np.float32), (x0 + left, y0 + top, x1 + left, y1 + top), (width, height))
    return np.asarray(np.clip(shifted, 0, 1), np.float32)


def _filled(polygon: np.ndarray, size: tuple[int, int], feather: float) -> np.ndarray:
    """A polygon (P, 2) in pixels, drawn finer and averaged, then blurred."""
    across, down = size
    large = Image.new("L", (across * SUPERSAMPLING, down * SUPERSAMPLING))
    corners = [(float(x), float(y)) for x, y in (polygon + 0.5) * SUPERSAMPLING - 0.5]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    mask = np.asarray(large, np.float32).reshape(down, SUPERSAMPLING, across, SUPERSAMPLING).mean((1, 3)) / 255
    width = 2 * round(across * feather / 2) + 1
    if width > 1:  # two box filters: a soft ramp of exactly this reach
        mask = box_blur(box_blur(mask, width), width)
    return np.asarray(np.clip(mask, 0, 1), np.float32)


def _area_weights(pixels: int, tokens: int) -> np.ndarray:
    """(tokens, pixels): share of each pixel in each token's mean; pixels may be cut by a border."""
    edges = np.linspace(0, pixels, tokens + 1)
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(pixels)[None]
    shared = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    return np.asarray(shared / shared.sum(1, keepdims=True))
