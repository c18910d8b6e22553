"""`bench decode`: both ways are measured, and a decoder that is another one is told."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks import decode
from tm_core.model.talking import TalkingModel
from tm_core.vae.tiny import TinyVAE

PORTRAIT = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_both_ways_are_timed_and_compared(model: TalkingModel) -> None:
    assert isinstance(model.vae, TinyVAE)
    rows = {row["what"]: row for row in decode.rows(model.vae, PORTRAIT, 3, 2)}
    assert rows["decoding a chunk"]["value"] > 0 and rows["time over the plain formula's"]["bar"] == "<= 0.68"
    assert rows["largest difference of a pixel"]["ok"]


@torch.inference_mode()
def test_another_decoder_is_told(model: TalkingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    other = copy.deepcopy(model.vae)
    other.up1.weight.mul_(1.01)
    monkeypatch.setattr(model.vae, "open_decoder", other.open_decoder)
    rows = {row["what"]: row for row in decode.rows(model.vae, PORTRAIT, 3, 1)}
    assert rows["largest difference of a pixel"]["ok"] is False
