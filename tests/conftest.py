"""Shared by every test: where things are, few threads, no network.

Test folders have no `__init__.py` (importlib mode), so what several folders need comes from here as fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two threads spin while they wait on a core that is busy
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("COLUMNS", "200")

import pytest
import torch

from parity.golden import recorded
from parity.host import HostMissing, Installation

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("host", "train/footage", "metrics")  # a ComfyUI, prepared footage, a drawn clip


SLOW = {line for line in (ROOT / "tests" / "slow.txt").read_text().splitlines() if line and not line.startswith("#")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks those of slow.txt. Of several processes one runs all tests that share something dear; they begin first."""
    for item in items:
        if item.nodeid.partition("[")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
    shared = [ROOT / "tests" / folder for folder in SHARED]
    for item in items:
        for folder in shared:
            if folder in item.path.parents:
                item.add_marker(pytest.mark.xdist_group(folder.name))
    items.sort(key=lambda item: next((i for i, folder in enumerate(shared) if folder in item.path.parents), len(shared)))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def assets() -> Path:
    """What the package ships: weights, portraits, speech."""
    return ROOT / "tm_core" / "assets"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The maintainers' shared folder (`TM_SHARED`, or `shared` beside the repository); a reasoned skip without it."""
    folder = Path(os.environ.get("TM_SHARED", ROOT.parent / "shared"))
    if not (folder / "assets").is_dir():
        pytest.skip(f"shared assets: {folder}: not there; set TM_SHARED to run this test")
    return folder


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Numbers recorded from other people's code (parity/goldens/NAME.safetensors) and what is known of their source."""
    return recorded


@pytest.fixture(scope="session")
def host_installation() -> Installation:
    """The ComfyUI to test against (path, python). Missing: a failure in CI, a reasoned skip at a developer's desk."""
    try:
        return Installation.find()
    except HostMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
