"""Shared by every test: where things are, few threads, no network.

Test folders have no `__init__.py` (importlib mode), so what several folders need comes from here as fixtures.
"""

from __future__ import annotations

import os
from collections import Counter
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
SHARED = ("tests/host", "tests/train/footage", "tests/metrics")  # a ComfyUI, prepared footage, a drawn clip
ALONE = ("tests/host/test_models.py", "tests/host/test_parity.py")  # of those folders, what needs no running ComfyUI


SLOW = {line for line in (ROOT / "tests" / "slow.txt").read_text().splitlines() if line and not line.startswith("#")}


def work_unit(nodeid: str) -> str:
    """What one of several processes runs as a whole: a file, since its tests share fixtures, or a folder that shares something dear."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in SHARED if file.startswith(f"{folder}/") and file not in ALONE), file)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks those of slow.txt. What takes long begins first, so that several processes end together."""
    dear: Counter[str] = Counter()
    for item in items:
        unit = work_unit(item.nodeid)
        if item.nodeid.partition("[")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
        dear[unit] += item.get_closest_marker("slow") is not None
    ranks = {unit: (SHARED + ALONE).index(unit) if unit in SHARED + ALONE else len(SHARED + ALONE) for unit in dear}
    items.sort(key=lambda item: (ranks[unit := work_unit(item.nodeid)], -dear[unit]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `pytest -n` deals out tests. Not `--dist loadgroup`: xdist 3.8 writes groups into names that pytest 9.2 does not read again."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return work_unit(nodeid)

    config.option.loadscopereorder = False  # in the order of collection
    return ByUnit(config, log)


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
def once_per_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Fails where a second process of one run makes what only one should: then `work_unit` has lost its effect."""

    def claim(what: str) -> None:
        if worker := os.environ.get("PYTEST_XDIST_WORKER"):
            claims = tmp_path_factory.getbasetemp().parent / f"{what}.claims"
            with claims.open("a") as file:
                file.write(f"{worker}\n")
            assert set(claims.read_text().split()) == {worker}, f"{what}: made in several processes"

    return claim


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
