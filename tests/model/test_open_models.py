"""Our transformer answers what the official code of open checkpoints does; recorded by tools/record_open_models.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tm_core.config import AudioKind, DiTConfig
from tm_core.model.dit import TalkingDiT
from tools.golden_rule import fill, numbers
from tools.record_open_models import AUDIO_DIM, FANTASY_LENGTHS, LATENTS, SIGMA, TOKENS, inputs

BAR = 1e-4


def recorded(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(str(Path(__file__).parents[1] / "data" / f"{name}_dit.safetensors"), "pt") as f:
        assert f.metadata()["repository"].startswith("https://github.com/") and len(f.metadata()["commit"]) == 40
        return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["sizes"])  # noqa: SIM118 - not a dict


def built(kind: AudioKind, sizes: dict[str, Any], rename: dict[str, str] | None = None) -> TalkingDiT:
    dit = TalkingDiT(DiTConfig(**sizes, image_dim=1280, audio_kind=kind, audio_dim=AUDIO_DIM)).eval()
    fill(dit, rename)
    return dit


@torch.no_grad()
def test_infinitetalk() -> None:
    golden, sizes = recorded("infinitetalk")
    dit = built("own_q_kv_proj", sizes)
    made = dit(sigma=torch.tensor([SIGMA]), audio=golden["tokens"], **inputs())
    assert (made - golden["velocity"]).abs().max() <= BAR
    silent = dit(sigma=torch.tensor([SIGMA]), **inputs())
    assert (silent - golden["velocity"]).abs().max() > 0.1  # the sound is heard


@torch.no_grad()
@pytest.mark.parametrize("name", ["velocity", "velocity_silent"])
def test_fantasytalking(name: str) -> None:
    golden, sizes = recorded("fantasytalking")
    dit = built("shared_q_kv", sizes, {f"cross_attn.{part}": f"cross_attn.processor.{part}" for part in ("k_proj", "v_proj")})
    audio = numbers("input.audio", (1, LATENTS, TOKENS, AUDIO_DIM))
    valid = torch.arange(TOKENS) < torch.tensor(FANTASY_LENGTHS)[:, None]
    heard = {"audio": audio, "audio_valid": valid[None]} if name == "velocity" else {}
    made = dit(sigma=torch.tensor([SIGMA]), **heard, **inputs())
    assert (made - golden[name]).abs().max() <= BAR
    assert (golden["velocity"] - golden["velocity_silent"]).abs().max() > 0.1
