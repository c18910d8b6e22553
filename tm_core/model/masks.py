"""The sparse causal mask of the paper (section 4.2): chunk t attends {c0, c(t-1), c(t)}, all of each."""

from __future__ import annotations

import torch
from torch import Tensor


def visible_chunks(chunk: int) -> list[int]:
    """Chunks that `chunk` attends, oldest first."""
    return sorted({0, max(chunk - 1, 0), chunk})


def sparse_causal_mask(num_chunks: int, tokens_per_chunk: int) -> Tensor:
    """(L, L) True where a query token (row) may attend a key token (column)."""
    chunk = torch.zeros(num_chunks, num_chunks, dtype=torch.bool)
    for t in range(num_chunks):
        chunk[t, visible_chunks(t)] = True
    return chunk.repeat_interleave(tokens_per_chunk, 0).repeat_interleave(tokens_per_chunk, 1)
