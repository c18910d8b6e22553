"""The host's attention for our transformer: the kernel that its user has chosen, where all keys count."""

from __future__ import annotations

from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
from torch import Tensor

from ...tm_core.model.attention import attention


def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The host's attention, by whichever kernel the user has chosen (sage, flash, xformers, split); on a CPU ours where nobody has."""
    if q.device.type == "cpu" and not chosen_attention():
        return attention(q, k, v)
    heads = q.shape[2]
    mixed: Tensor = comfy.ldm.modules.attention.optimized_attention(q.flatten(2), k.flatten(2), v.flatten(2), heads)
    return mixed


def chosen_attention() -> bool:
    """Whether the host was started with a kernel by name."""
    return any(value for name, value in vars(comfy.cli_args.args).items() if name.startswith("use_") and name.endswith("attention"))


def with_attention(operations: Any) -> Any:
    """`operations` that attend as the host does."""
    return type("HostOperations", (operations,), {"attend": staticmethod(host_attention)})
