"""The host's attention for our transformer: the kernel that its user has chosen, where all keys count."""

from __future__ import annotations

from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
from torch import Tensor

from ...tm_core.model.attention import attention


def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The host's attention (B, L, H, E) -> (B, L, H E): sage, flash, xformers, split, or what it takes where nobody chose."""
    mixed: Tensor = comfy.ldm.modules.attention.optimized_attention(q.flatten(2), k.flatten(2), v.flatten(2), q.shape[2])
    return mixed


def gpu_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The host's on a GPU; on a CPU, where its default saves memory and not time, ours."""
    return attention(q, k, v) if q.device.type == "cpu" else host_attention(q, k, v)


def chosen_by_name() -> bool:
    """Whether the host was started with a kernel by name."""
    return any(value for name, value in vars(comfy.cli_args.args).items() if name.startswith("use_") and name.endswith("attention"))


def with_attention(operations: Any) -> Any:
    """`operations` that attend as the host does."""
    attend = host_attention if chosen_by_name() else gpu_attention
    return type("HostOperations", (operations,), {"attend": staticmethod(attend)})
