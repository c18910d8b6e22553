"""Real portraits for the face tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core.face.mesh import FaceMesh


@pytest.fixture(scope="session")
def mesh() -> FaceMesh:
    """Both networks, loaded once."""
    return FaceMesh()


@pytest.fixture(scope="session")
def demo(assets: Path) -> np.ndarray:
    """The bundled portrait (H, W, 3) uint8."""
    return np.asarray(Image.open(assets / "portraits" / "demo.jpg").convert("RGB"))


@pytest.fixture(scope="session")
def pair(demo: np.ndarray) -> np.ndarray:
    """Two people side by side: the portrait and its mirror image, the right one smaller."""
    small = np.asarray(Image.fromarray(demo[:, ::-1]).resize((demo.shape[1] * 3 // 4, demo.shape[0] * 3 // 4)))
    out = np.full((demo.shape[0], demo.shape[1] + small.shape[1], 3), 90, np.uint8)
    out[:, : demo.shape[1]] = demo
    out[-small.shape[0] :, demo.shape[1] :] = small
    return out
