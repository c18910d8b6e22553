"""docs/adapters.md says what the code does: its tables are made from the families, and it exists where messages point to it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from parity.golden import GOLDENS
from tm_core.families.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "adapters.md").read_text(encoding="ascii")


@pytest.fixture(scope="module")
def script() -> Any:
    """scripts/adapters_table.py as a module."""
    spec = importlib.util.spec_from_file_location("adapters_table", ROOT / "scripts" / "adapters_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_what_the_code_says(script: Any) -> None:
    assert script.rewritten(TEXT) == TEXT, "run python scripts/adapters_table.py"


def test_every_table_that_is_made_is_shown_once(script: Any) -> None:
    assert sorted(re.findall(r"<!-- table: (\w+) -->", TEXT)) == sorted(script.TABLES)


def test_a_changed_default_is_noticed(script: Any) -> None:
    family = FAMILIES["infinitetalk"]
    wrong = TEXT.replace(f"| {family.clip_frames} | {family.motion_frames} |", f"| {family.clip_frames} | {family.motion_frames + 4} |")
    assert wrong != TEXT and script.rewritten(wrong) == TEXT


def test_computed_sizes_are_those_of_the_recorded_layouts(script: Any) -> None:
    layouts = json.loads((GOLDENS / "layouts.json").read_text())
    for name, layout in layouts.items():
        assert script.parameters(FAMILIES[name]) == layout["parameters"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.name)
def test_every_family_has_its_file_and_its_licence(family: Any) -> None:
    place = TEXT.index("## Files and folders"), TEXT.index("## Defaults of each family")
    def closest(line: str) -> str:
        return max((f.title for f in FAMILIES.values() if line.startswith(f"| {f.title}")), key=len, default="")

    rows = [line for line in TEXT[slice(*place)].splitlines() if closest(line) == family.title]
    assert len(rows) == 1 and family.licence in rows[0]
