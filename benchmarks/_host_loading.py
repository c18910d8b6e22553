"""Runs inside a ComfyUI's own Python: memory that nodes/host/wan.py `load`, or the host's own loader, takes for checkpoint files.

Usage: python _host_loading.py COMFYUI_FOLDER REPOSITORY pack|host TYPE FILE...; the last line is JSON. TYPE is what weights are kept in
(bf16 or fp16): without a GPU the host would choose float32, twice the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, repository: str, which: str, dtype: str, *files: str) -> dict[str, float]:
    """What `measured` found."""
    sys.path[:0] = [folder, repository]
    setattr(importlib.import_module("comfy.cli_args").args, f"{dtype}_unet", True)
    hosted: Any = importlib.import_module("parity.host_models").load_pack(folder, repository)
    loading: Any = importlib.import_module("benchmarks._loading")
    sd: Any = importlib.import_module("comfy.sd")

    def load() -> Any:
        return hosted.load([Path(f) for f in files]) if which == "pack" else sd.load_diffusion_model(files[0])

    found: dict[str, float] = loading.measured(load, lambda model: list(model.model.diffusion_model.parameters()))
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
