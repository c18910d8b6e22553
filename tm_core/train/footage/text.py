"""Text in the picture, by PaddleOCR's detector as in paper section 4.

RapidOCR carries that network (PP-OCR, onnx) in its package, so nothing is downloaded; only text is found, not read.
Text counts when it stands in the same place in two looks a second apart: subtitles and logos do, flicker does not.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import InputError
from ...face.networks import Box, area, overlap, shared_area
from .face_track import FaceTrack
from .scene_cuts import INSTALL
from .thresholds import FootageConfig

LONGEST = 736  # pixels of the longer side the detector works at
SURE = 0.5  # least score of a box, the detector's own default
SAME = 0.3  # intersection over union of one text in two looks
TALLEST = 0.25  # of the picture: what the detector frames beyond that are people and windows, never lines of text
ON_FACE = 0.5  # share of a box inside the face from which it is no text: brows, teeth, glasses


class TextFinder:
    """PaddleOCR's text detector; InputError where RapidOCR is not installed."""

    def __init__(self, threads: int = 1) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise InputError("data", "RapidOCR", "is not installed", INSTALL + ", or look for no text: --set text_where=off") from error
        self._ocr: Any = RapidOCR(params={
            "Global.log_level": "error", "Global.use_cls": False, "Global.use_rec": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "Det.limit_type": "max", "Det.limit_side_len": LONGEST, "Det.box_thresh": SURE,
        })
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)

    def __call__(self, rgb: np.ndarray) -> list[Box]:
        """Upright boxes (x0, y0, x1, y1) of the text in a picture (H, W, 3) uint8."""
        found = self._ocr(np.ascontiguousarray(rgb[..., ::-1]))
        corners: Any = [] if found.boxes is None else np.asarray(found.boxes, np.float64)
        return [(*map(float, c.min(0)), *map(float, c.max(0))) for c in corners]  # type: ignore[misc]


def check_text(track: FaceTrack, crop: Box, finder: TextFinder | None, cfg: FootageConfig) -> tuple[str | None, dict[str, float]]:
    """Reason to drop, or None, and how many looks show lasting text."""
    if finder is None or cfg.text_where == "off":
        return None, {}
    boxes = []
    for sampled in track.sampled:
        scale = track.picture_wh[0] / sampled.rgb.shape[1]
        face = _face_box(track.landmarks[min(sampled.frame, len(track.landmarks) - 1)])
        found = [(b[0] * scale, b[1] * scale, b[2] * scale, b[3] * scale) for b in finder(sampled.rgb)]
        boxes.append([b for b in found if _counts(b, face, track.picture_wh[1], crop if cfg.text_where == "crop" else None, cfg)])
    lasting = sum(any(overlap(a, b) > SAME for a in one for b in two) for one, two in pairwise(boxes))
    return ("text" if lasting else None), {"text_looks": float(lasting)}


def _face_box(landmarks: np.ndarray) -> Box | None:
    if np.isnan(landmarks).any():
        return None
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _counts(box: Box, face: Box | None, height: int, inside: Box | None, cfg: FootageConfig) -> bool:
    if not cfg.text_height * height <= box[3] - box[1] <= TALLEST * height or area(box) <= 0:
        return False
    if face is not None and shared_area(box, face) > ON_FACE * area(box):
        return False
    return inside is None or shared_area(box, inside) > 0
