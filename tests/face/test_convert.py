"""The bundled networks are what the converter makes of MediaPipe's files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tm_core.face.networks import ASSETS

NETWORKS = ["face_detection_short_range", "face_landmark", "selfie_segmentation"]


@pytest.mark.parametrize("name", NETWORKS)
def test_conversion_gives_the_bundled_file(name: str, shared: Path, repo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tflite", reason="PyPI tflite reads the original files; only developers convert them")
    spec = importlib.util.spec_from_file_location("convert_face_models", repo_root / "scripts" / "convert_face_models.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.convert(shared / "assets" / "face_models" / f"{name}.tflite", tmp_path / f"{name}.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.safetensors"]
    with safe_open(str(tmp_path / f"{name}.safetensors"), "pt") as new, safe_open(str(ASSETS / f"{name}.safetensors"), "pt") as old:
        assert json.loads(new.metadata()["graph"]) == json.loads(old.metadata()["graph"])
        assert set(new.keys()) == set(old.keys())
        assert all(torch.equal(new.get_tensor(k), old.get_tensor(k)) for k in new.keys())  # noqa: SIM118 (not a dict)


def test_licence_and_notice_travel_with_the_weights() -> None:
    assert "Apache License" in (ASSETS / "LICENCE-APACHE-2.0.txt").read_text()
    notice = (ASSETS / "NOTICE.txt").read_text()
    assert all(f"{name}.safetensors" in notice for name in NETWORKS)
