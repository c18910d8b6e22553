"""Find Faces and Face Masks in a real ComfyUI: a group, its masks as pictures, masks from elsewhere, every bad input."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity.comfyui import Host, Job

Graph = dict[str, Any]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def two(host: Host, assets: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundled portrait twice, the right one smaller."""
    face = Image.open(assets / "portraits" / "demo.jpg").convert("RGB").resize((300, 300))
    canvas = Image.new("RGB", (600, 300), (90, 110, 90))
    canvas.paste(face, (0, 0))
    canvas.paste(face.resize((200, 200)), (400, 60))
    path = tmp_path_factory.mktemp("group") / "two people.png"
    canvas.save(path)
    return host.upload(path)


def graph(image: str, **options: Any) -> Graph:
    """Load, find, mask; the masks and both overlays are shown."""
    return {
        "1": node("LoadImage", image=image),
        "2": node("TM_DetectFaces", image=["1", 0], smallest=24, most=8),
        "3": node("TM_FaceMasks", image=["1", 0], faces=["2", 0], region="face", feather=6.0, grow=0.0, exclusive=True),
        "4": node("MaskToImage", mask=["3", 0]),
        "5": node("PreviewImage", images=["4", 0]),
        "6": node("PreviewImage", images=["3", 1]),
        "7": node("PreviewImage", images=["2", 2]),
    } | options


def pictures(host: Host, job: Job, node_id: str) -> list[np.ndarray]:
    assert job.status == "success", (job.error, host.log())
    files = job.history["outputs"][node_id]["images"]
    return [np.asarray(Image.open(BytesIO(host.view(file))).convert("RGB")) for file in files]


def test_each_face_has_a_mask_of_its_own(host: Host, two: str) -> None:
    job = host.run(graph(two))
    left, right = (mask[..., 0] for mask in pictures(host, job, "5"))
    assert left.shape == (300, 600) and left[:, 350:].max() == 0 and right[:, :350].max() == 0
    assert left.max() == right.max() == 255 and left.sum() > 1.5 * right.sum()
    (source,) = (np.asarray(Image.open(host.input_dir / two).convert("RGB")),)
    for shown in (pictures(host, job, "6")[0], pictures(host, job, "7")[0]):
        assert shown.shape == source.shape and (shown != source).any(2).sum() > 500


@pytest.mark.parametrize("region", ["lips", "head"])
def test_regions_without_find_faces(host: Host, two: str, region: str) -> None:
    alone = node("TM_FaceMasks", image=["1", 0], region=region, feather=0.0, grow=2.0, exclusive=True)
    made = graph(two, **{"3": alone})
    masks = pictures(host, host.run({key: made[key] for key in ("1", "3", "4", "5")}), "5")
    assert len(masks) == 2
    share = sum(mask[..., 0].mean() / 255 for mask in masks)
    assert share < 0.02 if region == "lips" else share > 0.1


def test_masks_from_elsewhere_are_kept_apart(host: Host, two: str) -> None:
    made: Graph = {
        "1": node("LoadImage", image=two),
        "8": node("SolidMask", value=1.0, width=600, height=300),
        "9": node("TM_FaceMasks", image=["1", 0], masks=["8", 0], region="face", feather=0.0, grow=0.0, exclusive=True),
        "4": node("MaskToImage", mask=["9", 0]), "5": node("PreviewImage", images=["4", 0]),
    }
    (mask,) = pictures(host, host.run(made), "5")
    assert mask.min() == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [({"region": "nose"}, "region"), ({"masks": ["8", 0]}, "faces and masks"), ({"image": ["10", 0], "faces": None}, "no face found"),
     ({"image": ["10", 0]}, "found in 600x300 pixels")], ids=["region", "two-sources", "no-face", "other-picture"])
def test_bad_input_says_what_to_do(host: Host, two: str, change: dict[str, Any], message: str) -> None:
    made = graph(two, **{
        "8": node("SolidMask", value=1.0, width=600, height=300), "10": node("EmptyImage", width=96, height=64, batch_size=1, color=0)})
    inputs = made["3"]["inputs"] | change
    made["3"]["inputs"] = {key: value for key, value in inputs.items() if value is not None}
    job = host.run(made)
    assert job.status == "error" and message in job.error and ";" in job.error
