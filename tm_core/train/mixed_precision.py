"""bfloat16 where the hardware multiplies it; elsewhere training stays in float32."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether `device` has bfloat16 instructions; a CPU without them emulates, up to eight times slower than float32."""
    if torch.device(device).type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True


def mixed_precision(device: torch.device | str, wanted: bool = True) -> torch.autocast:
    """Autocast to bfloat16 on `device`, if `wanted` and if it gains anything."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=wanted and multiplies_bfloat16(device))
