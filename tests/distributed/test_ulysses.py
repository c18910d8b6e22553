"""Shares of a sequence: which ones there can be. What they compute is in tests/train/test_parallel.py, with real processes."""

from __future__ import annotations

import copy

import pytest
import torch

from tm_core.distributed.ulysses import UlyssesGroup
from tm_core.errors import InputError


def test_sequences_that_do_not_divide_are_refused() -> None:
    group = UlyssesGroup(group=None, rank=0, degree=4)
    assert group.share(12, 6, 8).runs == 1 and group.share(21, 64, 8).runs == 21
    for latents, tokens, heads in ((12, 6, 6), (21, 6, 8)):
        with pytest.raises(InputError):
            group.share(latents, tokens, heads)
    assert copy.deepcopy(group) is group


@pytest.mark.parametrize("runs", [1, 6], ids=["by latents", "by stripes"])
def test_the_ranks_shares_make_up_the_sequence(runs: int) -> None:
    """Every token has one owner; in order of latents, or a stripe of each."""
    groups = [UlyssesGroup(group=None, rank=rank, degree=4) for rank in range(4)]  # type: ignore[arg-type]
    latents, tokens = (4, 6) if runs == 1 else (6, 4)
    sequence = torch.arange(latents * tokens)[None, :, None]
    shares = [g.share(latents, tokens, 8) for g in groups]
    assert {s.runs for s in shares} == {runs}
    parts = torch.stack([s.own(sequence)[0, :, 0] for s in shares])
    assert sorted(parts.flatten().tolist()) == list(range(24))
    if runs == 1:
        assert torch.equal(parts.flatten(), torch.arange(24))
    else:
        assert parts[1].tolist() == [1, 5, 9, 13, 17, 21]
