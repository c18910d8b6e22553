"""The light by which a model sees a portrait: one in which the lips of the faces it has learned from move.

In a face much darker or more coloured than those the bundled models' lips hardly move, though the same face in daylight talks. What is
shown is the picture's own pixels, moved, so the model's portrait may be lit otherwise. Non-goals: shadows (light is one colour for the
whole face), how a picture looks. Not part of the paper.
"""

from __future__ import annotations

import numpy as np

from .mask import face_mask

Light = tuple[float, float, float]  # by which red, green and blue are multiplied
PLAIN: Light = (1.0, 1.0, 1.0)
# Brightness of the face (0..1), then red, green and blue over it: between these lie four fifths of the training's 116 portraits. At the
# edge of nearly all (0.19; 1.02 to 1.49, 0.86 to 0.98, 0.61 to 1.01) a blue face by night (0.17; 0.72, 1.01, 1.26) still hardly spoke.
USUAL = ((0.26, 1.2, 0.9, 0.68), (0.59, 1.41, 0.97, 0.87))
MOST = 6.0  # times brighter: of what is darker there is too little to see


def light_for_model(picture: np.ndarray, landmarks: np.ndarray) -> Light:
    """The light that makes a face (H, W, 3) uint8 with landmarks (468, 3) in its pixels like those of the training; PLAIN if it is."""
    inside = face_mask(landmarks, (picture.shape[1], picture.shape[0]), 0.0) > 0.5
    if not inside.any():
        return PLAIN
    colour = np.maximum(picture[inside].mean(0) / 255, 1 / 255)
    bright = colour.mean()
    found = np.array([bright, *colour / bright])
    wanted = np.clip(found, *USUAL)
    if np.array_equal(found, wanted):
        return PLAIN
    hue = wanted[1:] / wanted[1:].mean()
    red, green, blue = np.minimum(wanted[0] * hue / colour, MOST)
    return float(red), float(green), float(blue)
