"""The networks against numbers recorded from MediaPipe's own runtimes (parity/recorders/faces.py); no runtime is needed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.recorders.faces import VIEWS, masked_views, views
from tm_core.face.mesh import FaceMesh
from tm_core.face.segment import PersonSegmenter

Golden = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


@pytest.mark.parametrize("name", VIEWS)
def test_landmarks_and_boxes_are_those_of_litert(name: str, mesh: FaceMesh, golden: Golden) -> None:
    recorded, _ = golden("faces")
    rgb = dict(views())[name]
    away = np.linalg.norm(mesh(rgb)[:, :2] - recorded[f"{name}.landmarks"].numpy()[:, :2], axis=1)
    assert np.median(away) < 0.1 and away.max() < 0.5
    assert np.abs(np.array(mesh.detect(rgb)[0].box) - recorded[f"{name}.box"].numpy()).max() < 0.1


@pytest.mark.parametrize("name", VIEWS)
def test_the_person_s_mask_is_mediapipe_s(name: str, golden: Golden) -> None:
    recorded, _ = golden("faces")
    rgb = torch.from_numpy(dict(masked_views())[name].copy()).permute(2, 0, 1)[None].float()
    difference = np.abs(PersonSegmenter().network_mask(rgb)[0] - recorded[f"{name}.mask"].float().numpy())
    assert difference.mean() < 1e-3 and difference.max() < 0.02


def test_a_person_is_seen_and_an_empty_picture_is_empty(demo: np.ndarray) -> None:
    segmenter = PersonSegmenter()
    mask = segmenter(demo)
    assert mask.shape == demo.shape[:2] and 0.2 < mask.mean() < 0.9
    assert mask[demo.shape[0] // 2, demo.shape[1] // 2] > 0.95 and mask[2, 2] < 0.2
