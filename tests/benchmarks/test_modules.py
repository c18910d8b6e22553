"""Every bench, every comparison and every recorder imports: names they take from the engine exist."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_all_of_them_import() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("benchmarks", "parity") for path in sorted((ROOT / folder).rglob("*.py")) if path.name != "__init__.py"]
    assert len(names) > 40
    for name in names:
        importlib.import_module(name)
