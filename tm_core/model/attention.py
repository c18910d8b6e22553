"""Scaled dot-product attention, full, by whichever way is the fastest.

Shapes: B batch, L tokens, N keys, H heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (B, L, H, E), (B, N, H, E), (B, N, H, E) -> (B, L, H E), every key counted
FEW_KEYS = 32  # up to here plain products are faster on a CPU, by far in bfloat16


def attention_of(operations: Any) -> Attend:
    """What `operations` attend with where all keys count: their own `attend`, as a host's that a user has chosen, or ours."""
    own: Attend = getattr(operations, "attend", attention)
    return own


def attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (B, L, H, E) -> (B, L, H E); `valid` (B, N) bool: which keys count, zeros where none does."""
    if valid is not None:
        some = valid.any(1)
        valid, v = valid | ~some[:, None], v * some[:, None, None, None]  # a softmax over nothing is not a number
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mask = None if valid is None else valid[:, None, None]
    if k.shape[2] <= FEW_KEYS and k.device.type == "cpu":
        score = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        if mask is not None:
            score = score.masked_fill(~mask, -math.inf)
        out: Tensor = score.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)
