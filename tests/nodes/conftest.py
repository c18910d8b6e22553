"""The pack under a package name of its own, as ComfyUI loads it, but without the nodes that need a ComfyUI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "tm_pack_under_test"


@pytest.fixture(scope="session")
def pack() -> Callable[[str], ModuleType]:
    """Import a module of the pack: `pack("nodes.host.pictures")`."""
    for name, folder in ((NAME, ROOT), (f"{NAME}.nodes", ROOT / "nodes")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    return lambda module: importlib.import_module(f"{NAME}.{module}")
