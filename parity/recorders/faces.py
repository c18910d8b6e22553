"""Record what MediaPipe's own runtimes give for the bundled portrait, for tests/face/test_goldens.py and `bench faces` (developers only).

    python -m venv /tmp/mp && /tmp/mp/bin/pip install mediapipe==0.10.21
    /tmp/mp/bin/python -m parity.recorders.faces masks /tmp/masks.npz
    python -m parity.recorders.faces landmarks FOLDER_WITH_TFLITE --masks /tmp/masks.npz [--out parity/goldens/faces.safetensors]

Two steps, because mediapipe needs an environment of its own: its segmentation has an operation that ai-edge-litert
lacks. Detector and mesh are run by ai-edge-litert inside our own `FaceMesh`. The file holds numbers only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tm_core" / "assets" / "portraits" / "demo.jpg"
VIEWS = {"whole": 400, "half": 200, "small": 128, "mirrored": 400, "tilted": 400}
MASK_SIDE = 256


def views() -> Iterator[tuple[str, np.ndarray]]:
    """The bundled portrait at several sizes, mirrored and tilted by 25 degrees."""
    picture = Image.open(DEMO).convert("RGB")
    for name, side in VIEWS.items():
        view = picture.resize((side, side), Image.Resampling.BICUBIC)
        if name == "mirrored":
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield name, np.asarray(view.rotate(25, Image.Resampling.BICUBIC) if name == "tilted" else view)


def masked_views() -> Iterator[tuple[str, np.ndarray]]:
    """The same at the size of the segmentation."""
    for name, rgb in views():
        yield name, np.asarray(Image.fromarray(rgb).resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BICUBIC))


def record_masks(out: Path) -> None:
    """Step one, with mediapipe: its CPU graph, input and output at the network's own size."""
    import mediapipe

    net = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
    np.savez(out, **{name: net.process(rgb).segmentation_mask.astype(np.float16) for name, rgb in masked_views()})


def record_landmarks(folder: Path, masks: Path, out: Path) -> None:
    """Step two, with ai-edge-litert."""
    sys.path.insert(0, str(ROOT))
    import torch
    from ai_edge_litert.interpreter import Interpreter
    from safetensors.torch import save_file

    from tm_core.face.mesh import FaceMesh
    from tm_core.face.search import glance

    def litert(name: str) -> Any:
        net = Interpreter(str(folder / f"{name}.tflite"))
        net.allocate_tensors()

        def run(x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
            rows: dict[str, list[np.ndarray]] = {}
            for x in x_BCHW.permute(0, 2, 3, 1).numpy():
                net.set_tensor(net.get_input_details()[0]["index"], np.ascontiguousarray(x[None]))
                net.invoke()
                for output in net.get_output_details():
                    rows.setdefault(output["name"], []).append(net.get_tensor(output["index"])[0])
            return {k: torch.from_numpy(np.stack(v)) for k, v in rows.items()}

        return run

    oracle, tensors = FaceMesh(), {}
    oracle.detector, oracle.mesh = litert("face_detection_short_range"), litert("face_landmark")
    kept = np.load(masks)
    for name, rgb in views():
        tensors[f"{name}.landmarks"] = torch.from_numpy(glance(oracle, rgb).faces[0].landmarks)
        tensors[f"{name}.box"] = torch.tensor(oracle.detect(rgb)[0].box)
        tensors[f"{name}.mask"] = torch.from_numpy(kept[name])
    source = {"landmarks, box": "ai-edge-litert 2.3.0", "mask": "mediapipe 0.10.21", "networks": "mediapipe 0.10.21, Apache-2.0"}
    save_file(tensors, str(out), metadata={"source": json.dumps(source)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("masks", "landmarks"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "parity" / "goldens" / "faces.safetensors")
    args = parser.parse_args()
    if args.step == "masks":
        record_masks(args.path)
    else:
        record_landmarks(args.path, args.masks, args.out)


if __name__ == "__main__":
    main()
