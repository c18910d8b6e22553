"""Every name of slow.txt is a test: one that was renamed would be quick again, and nobody would notice."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import SLOW


def test_slow_tests_are_there(repo_root: Path) -> None:
    assert len(SLOW) > 50
    for name in SLOW:
        path, *inside, test = name.split("::")
        found = ast.walk(ast.parse((repo_root / path).read_text()))
        assert not inside and any(isinstance(node, ast.FunctionDef) and node.name == test for node in found), name
