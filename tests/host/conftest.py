"""Fixtures for tests against a real ComfyUI: one server for the whole session, restarted by those who ask."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _load_harness() -> ModuleType:
    """The harness as a module of a fixed name (importlib mode gives test folders no package)."""
    name = "tm_host_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("harness.py"))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


harness = _load_harness()


@pytest.fixture(scope="session")
def host_installation() -> object:
    """The ComfyUI to test against (path, python). Missing: a failure in CI, a reasoned skip at a developer's desk."""
    try:
        return harness.Installation.find()
    except harness.HostMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def host(host_installation: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A running server (harness.Host) with this pack loaded; shared by the session."""
    with harness.Host(tmp_path_factory.mktemp("comfyui"), host_installation) as running:
        assert "IMPORT FAILED" not in running.log_path.read_text(errors="replace"), running.log(200)
        yield running
