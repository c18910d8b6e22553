"""How this pack's nodes are described to ComfyUI: its API, and which keyword of it exists since when. Covers 0.3.75 and later.

Non-goals: what a node does; what travels between nodes (wires).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker

try:  # the pinned API is what the maintainers advise; `latest` changes with the host
    from comfy_api.v0_0_2 import ComfyExtension, InputImpl, io
except ImportError:
    from comfy_api.latest import ComfyExtension, InputImpl, io

from ...tm_core.errors import InputError

__all__ = ["ComfyExtension", "InputImpl", "chosen", "field", "io", "nothing", "schema"]

CATEGORY = "TalkingMachines"


def _accepted(call: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those keywords that this host's version of `call` knows; newer ones are comfort, not function."""
    parameters = inspect.signature(call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def schema(**keywords: Any) -> Any:
    """io.Schema of this pack's category, without what the host does not know yet."""
    return io.Schema(**_accepted(io.Schema, {"category": CATEGORY, **keywords}))


def field(kind: Any, name: str, **keywords: Any) -> Any:
    """Input `name` of an io type, without what the host does not know yet (`advanced`)."""
    return kind.Input(name, **_accepted(kind.Input, keywords))


def chosen(name: str, value: str, options: Iterable[str]) -> str:
    """`value`, if it is offered; 0.3.75 does not check the lists of V3 nodes, so graphs from scripts come unchecked."""
    offered = list(options)
    if value not in offered:
        raise InputError(name, value, "is not offered here", f"choose one of {', '.join(offered)}")
    return value


def nothing(reason: str) -> Any:
    """An output that holds nothing: a node that is connected to it does not run and shows this reason; the others run."""
    return ExecutionBlocker(reason)
