"""Results on stdout, as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import typer


def print_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value on stdout; what is not a number is null, as JSON has no NaN."""
    typer.echo(json.dumps(_finite(value), indent=indent, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
