"""Comparisons that run inside a ComfyUI's own Python: where one is, and what was found in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class HostMissing(Exception):
    """No ComfyUI to test against."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where a ComfyUI lives and which interpreter runs it."""

    path: Path
    python: Path

    @classmethod
    def find(cls) -> Installation:
        """`COMFYUI_PATH` first, then what `make host` installed; HostMissing names the remedy."""
        if named := os.environ.get("COMFYUI_PATH"):
            path = Path(named).expanduser().resolve()
            candidates = (os.environ.get("COMFYUI_PYTHON", ""), path / "venv/bin/python", path / ".venv/bin/python", sys.executable)
            return cls(path=path, python=next(Path(c) for c in candidates if c and Path(c).is_file()))
        home = Path(os.environ.get("TM_HOST", ROOT / ".host")).resolve()
        path, python = home / "ComfyUI", home / "venv/bin/python"
        if not (home / ".requirements.done").is_file() or not python.is_file():
            raise HostMissing(f"no ComfyUI in {home}: run `make host` (about 2 minutes, 6 GB) or set COMFYUI_PATH")
        return cls(path=path, python=python)


def find_host() -> Installation | None:
    """The ComfyUI to compare with; None where there is none."""
    try:
        return Installation.find()
    except HostMissing:
        return None


def compare_with_host(host: Installation, script: str = "host_network.py") -> dict[str, Any]:
    """What `host_network.py`, or `host_models.py`, finds inside the host's own Python."""
    command = [str(host.python), str(ROOT / "parity" / script), str(host.path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=host.path)
    if done.returncode:
        raise RuntimeError(f"the comparison inside the host failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
