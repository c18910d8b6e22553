"""The torch interpreter against the networks' own runtime, litert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core.face.mesh import FaceMesh
from tm_core.face.networks import ASSETS
from tm_core.face.search import glance
from tm_core.face.tflite_graph import TfliteGraph

NETWORKS = ["face_detection_short_range", "face_landmark"]


class Litert:
    """A tflite network with the interface of TfliteGraph."""

    def __init__(self, path: Path) -> None:
        interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert (extra dev) is the oracle here")
        self.net = interpreter.Interpreter(str(path))
        self.net.allocate_tensors()

    def __call__(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        rows: dict[str, list[np.ndarray]] = {}
        for x in x_BCHW.permute(0, 2, 3, 1).numpy():
            self.net.set_tensor(self.net.get_input_details()[0]["index"], np.ascontiguousarray(x[None]))
            self.net.invoke()
            for output in self.net.get_output_details():
                rows.setdefault(output["name"], []).append(self.net.get_tensor(output["index"])[0])
        return {k: torch.from_numpy(np.stack(v)) for k, v in rows.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_litert_on_noise(name: str, shared: Path) -> None:
    ours = TfliteGraph(ASSETS / f"{name}.safetensors")
    theirs = Litert(shared / "assets" / "face_models" / f"{name}.tflite")
    x = torch.rand(3, 3, *ours.input_hw)
    a, b = ours(x), theirs(x)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key].reshape(3, -1), b[key].reshape(3, -1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [*NETWORKS, "selfie_segmentation"])
def test_batch_equals_one_by_one(name: str) -> None:
    net = TfliteGraph(ASSETS / f"{name}.safetensors")
    x = torch.rand(4, 3, *net.input_hw)
    whole = net(x)
    for key, value in whole.items():
        single = torch.cat([net(x[i : i + 1])[key] for i in range(4)])
        torch.testing.assert_close(value, single, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("side", [128, 200, 400])
def test_landmarks_of_portraits_equal_litert(side: int, shared: Path, mesh: FaceMesh) -> None:
    """The whole way, detector and both passes, with the networks exchanged: within half a pixel."""
    from PIL import Image

    oracle = FaceMesh()
    folder = shared / "assets" / "face_models"
    oracle.detector, oracle.mesh = (Litert(folder / f"{n}.tflite") for n in NETWORKS)  # type: ignore[assignment]
    portraits = (shared / "assets" / "portraits" / "GOOD.txt").read_text().split()[:8]
    for name in portraits:
        picture = Image.open(shared / "assets" / "portraits" / name).convert("RGB").resize((side, side))
        ours, theirs = (glance(m, np.asarray(picture)).faces for m in (mesh, oracle))
        assert len(ours) == len(theirs) >= 1, name
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a.landmarks - b.landmarks).max() < 0.5, name
