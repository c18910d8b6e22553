"""The examples of docs/live.md: that they are Python, and that what they import is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: run make frameworks")
pytest.importorskip("pipecat", reason="pipecat-ai is not installed: run make frameworks")


def test_examples_import_what_there_is(repo_root: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (repo_root / "docs" / "live.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
