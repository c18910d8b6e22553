"""Ulysses sequence parallelism: each rank has a share of a sequence's tokens, and in attention a share of its heads.

Tokens are exchanged for heads and back by one all-to-all each (DeepSpeed-Ulysses, arXiv 2309.14509). The exchange is
differentiated exactly, so training and streams use the same one. model/blocks.py (TokenShare) and model/dit.py
(SequenceGroup) say what a model asks of it. Non-goals: who the ranks are (process_group.py).
Shapes: A, B leading axes, L tokens of a sequence, l = L / n of a rank, n ranks of a sequence group, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError
from ..model.blocks import Given


class _Exchange(torch.autograd.Function):
    """All-to-all: part j of rank i becomes part i of rank j; its own inverse and its own adjoint."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        """parts (n, ...), the same shape on all ranks."""
        ctx.group, parts = group, parts.contiguous()
        out = torch.empty_like(parts)
        dist.all_to_all_single(out, parts, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """See the class."""
        return exchange(grads[0], ctx.group), None


def exchange(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(n, ...): part i goes to rank i of the group; what comes back came from rank i. Differentiable."""
    out: Tensor = _Exchange.apply(parts, group)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, kw_only=True)
class UlyssesShare:
    """One rank's tokens of a sequence: whole latents where they divide, else a stripe of every latent.

    Either way L tokens are `runs` runs of n equal parts, and a rank has one part of every run. See TokenShare.
    """

    group: dist.ProcessGroup
    rank: int
    degree: int
    runs: int  # 1: by latents; F: by stripes

    def own(self, x: Tensor, dim: int = 1) -> Tensor:
        """(A, L, ...) -> (A, l, ...)."""
        part: Tensor = x.unflatten(dim, (self.runs, self.degree, -1)).select(dim + 1, self.rank)
        return part.flatten(dim, dim + 1)

    def whole(self, x: Tensor) -> Tensor:
        """(A, l, ...) -> (A, L, ...): every rank gets every part, so each part's gradient is the sum of theirs."""
        return self._joined(exchange(x.expand(self.degree, *x.shape), self.group), 1)

    def own_given(self, given: Given) -> Given:
        """Sound (B, P, F, N, D) and mask (B, P, F, S) of the own tokens; text and image are for all."""
        audio, mask, valid = given.audio, given.mask, given.valid
        if self.runs == 1:
            audio, valid = (None if t is None else t.chunk(self.degree, 2)[self.rank] for t in (audio, valid))
        if mask is not None:
            latents = mask.shape[2] // self.degree if self.runs == 1 else mask.shape[2]
            mask = self.own(mask.flatten(2), 2).unflatten(2, (latents, -1))
        return given._replace(audio=audio, mask=mask, valid=valid)

    def to_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Each (B, l, H, E) -> (B, L, H / n, E), in one exchange."""
        split = torch.stack(parts).unflatten(3, (self.degree, -1)).movedim(3, 0)
        return self._joined(exchange(split, self.group), 2).unbind()

    def to_tokens(self, x: Tensor) -> Tensor:
        """(B, L, D / n) -> (B, l, D)."""
        split = x.unflatten(1, (self.runs, self.degree, -1)).movedim(2, 0).flatten(2, 3)
        return exchange(split, self.group).movedim(0, 2).flatten(2)

    def _joined(self, parts: Tensor, dim: int) -> Tensor:
        """(n, ..., l, ...) -> (..., L, ...), l being axis `dim` of a part."""
        runs: Tensor = parts.unflatten(dim + 1, (self.runs, -1))
        return runs.movedim(0, dim + 1).flatten(dim, dim + 2)


@dataclass(frozen=True, kw_only=True)
class UlyssesGroup:
    """The ranks that share sequences with this one: what a TalkingDiT takes as `sequence`."""

    group: dist.ProcessGroup
    rank: int
    degree: int

    def __deepcopy__(self, memo: dict[int, Any]) -> UlyssesGroup:
        return self

    def share(self, latents: int, tokens: int, heads: int) -> UlyssesShare:
        """See UlyssesShare; InputError where heads or tokens do not divide."""
        n = self.degree
        if heads % n:
            raise InputError("sequence", n, f"must divide the {heads} attention heads", "choose another degree")
        if latents % n and tokens % n:
            rule = f"must divide the {latents} latents or the {tokens} tokens of a latent"
            raise InputError("sequence", n, rule, "choose another degree or another picture size")
        return UlyssesShare(group=self.group, rank=self.rank, degree=n, runs=latents if latents % n else 1)
