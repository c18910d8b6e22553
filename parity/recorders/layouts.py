"""Records names, shapes and parameter counts that the official code of open checkpoints has: parity/goldens/layouts.json.

Usage: python -m parity.recorders.layouts FANTASYTALKING INFINITETALK LIVEACT, three checkouts (commits below). Models are
built without memory (meta device) at their published sizes; blocks are checked to be alike and written once.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parity.golden import GOLDENS
from parity.recorders.official import ACCELERATORS, absent, import_from, package, same, stand_in, stand_in_diffusers

WAN = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "in_dim": 36}  # wan/configs/wan_i2v_14B.py
COMMITS = {
    "wan_i2v": ("Fantasy-AMAP/fantasy-talking", "8c2d0c9ce2441eb02b5cf1c10d23dbab5ce06677"),
    "fantasytalking": ("Fantasy-AMAP/fantasy-talking", "8c2d0c9ce2441eb02b5cf1c10d23dbab5ce06677"),
    "infinitetalk": ("MeiGen-AI/InfiniteTalk", "0107cd96421b3b1bef7728bde14447dbff7b2db2"),
    "liveact": ("Soul-AILab/SoulX-LiveAct", "ac8579b907756f228e975922a5159765c93c6a34")}


def described(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Blocks' tensors once, under `blocks.*.`."""
    repository, commit = COMMITS[name]
    pattern: dict[str, list[int]] = {}
    for key, value in tensors.items():
        general = re.sub(r"^blocks\.\d+\.", "blocks.*.", key)
        assert pattern.setdefault(general, list(value.shape)) == list(value.shape), key
    blocks = 1 + max(int(m[1]) for k in tensors if (m := re.match(r"blocks\.(\d+)\.", k)))
    assert len(tensors) == sum(blocks if k.startswith("blocks.*.") else 1 for k in pattern)
    count = sum(v.numel() for v in tensors.values())
    return {"repository": f"https://github.com/{repository}", "commit": commit, "blocks": blocks, "parameters": count, "tensors": pattern}


def fantasytalking(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The base alone and with its adapter, by the names of its published file."""
    package(folder, "diffsynth", "diffsynth.models")
    dit: Any = importlib.import_module("diffsynth.models.wan_video_dit")
    official = import_from(folder, "model")
    dit.WanModel.init_weights = lambda self: None
    model = dit.WanModel(model_type="i2v", cross_attn_norm=True, **WAN)
    base = dict(model.state_dict())
    talking = official.FantasyTalkingAudioConditionModel(model, 768, 2048)
    projection = {f"proj_model.{k}": v for k, v in talking.proj_model.state_dict().items()}
    return {"wan_i2v": base, "fantasytalking": {**model.state_dict(), **projection}}


def multitalk_like(folder: Path, module: str) -> dict[str, torch.Tensor]:
    """A whole model of InfiniteTalk or LiveAct."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("wan", "model_liveact")]:
        del sys.modules[name]
    top = module.split(".")[0]
    package(folder, top, *([f"{top}.modules", f"{top}.utils"] if top == "wan" else []))
    official: Any = importlib.import_module(module)
    return dict(official.WanModel(weight_init=False, **WAN).state_dict())


def main(fantasy: str, infinite: str, liveact: str) -> None:
    """Write the file."""
    stand_in_diffusers()
    absent(*ACCELERATORS)
    for name in ("fp8_gemm", "fp4_gemm"):
        stand_in(name, FP8Linear=nn.Linear, FP4Linear=nn.Linear)
    torch.compile = same  # type: ignore[assignment]
    with torch.device("meta"):
        found = fantasytalking(Path(fantasy))
        found["infinitetalk"] = multitalk_like(Path(infinite), "wan.modules.multitalk_model")
        found["liveact"] = multitalk_like(Path(liveact), "model_liveact.model_memory")
    out = {name: described(name, tensors) for name, tensors in found.items()}
    (GOLDENS / "layouts.json").write_text(json.dumps(out, indent=1) + "\n")
    for name, content in out.items():
        logging.info("%s: %d parameters, %d kinds of tensor", name, content["parameters"], len(content["tensors"]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:4])
