"""Numbers recorded from other people's code: goldens/NAME.safetensors, written by recorders/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

GOLDENS = Path(__file__).resolve().parent / "goldens"
BAR = 1e-4  # by how much our float32 may differ from another implementation's


def recorded(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What official code answered, goldens/NAME.safetensors: tensors, and repository, commit and sizes of their source."""
    with safe_open(str(GOLDENS / f"{name}.safetensors"), "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["source"])  # noqa: SIM118 - not a dict
