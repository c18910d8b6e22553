"""bfloat16 only where it is multiplied, not emulated."""

from __future__ import annotations

import pytest
import torch

from tm_core.train import mixed_precision as module
from tm_core.train.mixed_precision import mixed_precision


@pytest.mark.parametrize(("hardware", "wanted", "dtype"), [
    (True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)])
def test_a_cpu_without_the_instructions_stays_in_float32(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, wanted: bool, dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: hardware)
    with mixed_precision("cpu", wanted):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_a_gpu_multiplies_it() -> None:
    assert module.multiplies_bfloat16("cuda") and module.multiplies_bfloat16("cpu") in (True, False)
