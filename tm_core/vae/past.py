"""What causal layers remember between calls: the last frames each of them saw, as a value.

A layer asks `Past` for its input preceded by those frames and `Past` keeps the new last ones. Layers run in the
same order for every latent, so order is all that tells their memories apart. Nothing is written in place: the
tensors of a `StreamState` never change and share no memory with activations, so an old state decodes again what
followed it. While a step runs, the old state and the new one exist both.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamState:
    """The last input frames of every layer that looks back, in the order the layers run; empty before the first."""

    kept: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes it holds: none before the first latent or frame, the same number ever after."""
        return sum(t.nbytes for t in self.kept)


class Past:
    """The memories during one call: `join` in each layer, `step` after each latent, `kept` at the end.

    `time` is the axis of time in what the layers handle. ValueError where layers and memories do not match.
    """

    def __init__(self, state: StreamState, *, time: int) -> None:
        self.time = time
        self._old, self._new = deque(state.kept), list[Tensor]()
        self.first = not state.kept  # nothing was seen before

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """What a StreamState holds after the last `step`."""
        return tuple(self._old)

    def join(self, x: Tensor, count: int) -> Tensor:
        """x preceded by the `count` frames this layer saw before it; zeros before the first."""
        joined = torch.cat([self._before(x, count), x], self.time)
        self._keep(joined, count)
        return joined

    def begin(self, x: Tensor, count: int) -> None:
        """First call of a layer that starts one step late: x is what it will see before; zeros where that is short."""
        missing = count - x.shape[self.time]
        self._keep(x if missing <= 0 else torch.cat([self._zeros(x, missing), x], self.time), count)

    def step(self) -> None:
        """One latent is done: what was kept is what the next one joins."""
        if self._old:
            raise ValueError(f"state: {len(self._old)} memories more than layers that look back; it is not a state of this network")
        self._old, self._new, self.first = deque(self._new), [], False

    def _keep(self, x: Tensor, count: int) -> None:
        # a copy: a view would hold all of the layer's input until the next call
        self._new.append(x.narrow(self.time, x.shape[self.time] - count, count).clone())

    def _before(self, x: Tensor, count: int) -> Tensor:
        if self.first:
            return self._zeros(x, count)
        if not self._old:
            raise ValueError("state: fewer memories than layers that look back; it is not a state of this network")
        old = self._old.popleft()
        if old.shape[-2:] != x.shape[-2:]:
            rule = f"is what a layer is given that saw {tuple(old.shape[-2:])} before; a stream has one size"
            raise InputError("picture size", tuple(x.shape[-2:]), rule, "open a new state for another size")
        return old

    def _zeros(self, x: Tensor, count: int) -> Tensor:
        return x.new_zeros([count if axis == self.time else size for axis, size in enumerate(x.shape)])
