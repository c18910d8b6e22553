"""Fixtures for tests against a real ComfyUI: one server for the whole session, restarted by those who ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from parity.comfyui import Host, Installation


@pytest.fixture(scope="session")
def host(
    host_installation: Installation, tmp_path_factory: pytest.TempPathFactory, once_per_run: Callable[[str], None],
) -> Iterator[Host]:
    """A running server with this pack loaded; shared by the session."""
    once_per_run("comfyui")
    with Host(tmp_path_factory.mktemp("comfyui"), host_installation) as running:
        assert "IMPORT FAILED" not in running.log_path.read_text(errors="replace"), running.log(200)
        yield running
