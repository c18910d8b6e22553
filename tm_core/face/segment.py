"""Which pixels are a person: MediaPipe's selfie segmentation in plain torch, round one face or over a whole picture.

The network sees 256 x 256 pixels, so a head is looked at in a turned crop of its own. Non-goals: telling people
apart (regions does, by the nearest face), hair strands, video. No section of the paper.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .crops import Squares, sample_squares
from .networks import ASSETS, check_picture
from .tflite_graph import TfliteGraph

SIZE = 256
OUTPUT = "activation_10"


class PersonSegmenter:
    """The network; holds no state between calls."""

    def __init__(self, device: torch.device | str = "cpu", assets: Path = ASSETS) -> None:
        self.network = TfliteGraph(assets / "selfie_segmentation.safetensors", device)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W) float32 0..1 of a picture (H, W, 3) uint8, seen as a whole."""
        check_picture(rgb)
        small = np.asarray(Image.fromarray(rgb).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        mask = Image.fromarray(self.network_mask(torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float())[0])
        return np.asarray(mask.resize((rgb.shape[1], rgb.shape[0]), Image.Resampling.BILINEAR))

    def network_mask(self, levels_B3HW: torch.Tensor) -> np.ndarray:
        """(B, 256, 256) float32 0..1 of pictures (B, 3, 256, 256) with levels 0..255."""
        return np.asarray(self.network(levels_B3HW / 255)[OUTPUT][:, 0].cpu().numpy())

    def in_square(self, rgb: np.ndarray, square: Squares, points_xy: np.ndarray) -> np.ndarray:
        """(...) float32: how much person is at pixels (..., 2) of a picture, as one turned square shows it; 0 outside the square."""
        from scipy.ndimage import map_coordinates  # dear to import, and most portraits need no head

        mask = self.network_mask(sample_squares(rgb[None], square, SIZE))[0]
        # the inverse of Squares.to_picture
        inside = (points_xy - square.centre[0]) @ square.axes()[0].T * (SIZE / square.side[0]) + SIZE / 2
        return np.asarray(map_coordinates(mask, [inside[..., 1], inside[..., 0]], order=1, mode="constant", cval=0.0), np.float32)
