"""A transformer's blocks compiled one for all, and in fp8: the ways to run a chunk that the parts compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tm_core.model.blocks import Block
from tm_core.model.dit import TalkingDiT

SETTLED = 3  # chunks that are seen from the third chunk on: the shapes of every later one
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def backend_of(device: str) -> str:
    """Code is generated for a GPU; on a CPU only its graph is made, which takes seconds instead of minutes."""
    return "inductor" if device.startswith("cuda") else "aot_eager"


@contextmanager
def compiled_blocks(dit: TalkingDiT, device: str) -> Iterator[str]:
    """`Block.step` compiled, whole, for the shapes of every chunk after the second; the first two run as they are."""
    torch.compiler.reset()
    backend = backend_of(device)
    compiled = torch.compile(Block.step, fullgraph=True, dynamic=False, backend=backend)

    def step(block: Block, *given: Any) -> Any:
        tables = given[5]
        return (compiled if len(tables) == SETTLED else Block.step)(block, *given)

    for block in dit.blocks:
        block.step = partial(step, block)  # type: ignore[method-assign]
    try:
        yield backend
    finally:
        for block in dit.blocks:
            del block.step
        torch.compiler.reset()


@contextmanager
def attention_order(backends: list[SDPBackend] | None) -> Iterator[None]:
    """The order in which torch tries its ways of attention; None: as it is."""
    if backends is None:
        yield
        return
    with sdpa_kernel(backends, set_priority=True):
        yield
