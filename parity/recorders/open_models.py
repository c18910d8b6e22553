"""Records what the official transformers of open checkpoints answer, at small size: parity/goldens/NAME_dit.safetensors.

Usage: python -m parity.recorders.open_models infinitetalk|fantasytalking FOLDER COMMIT, FOLDER being a checkout of
MeiGen-AI/InfiniteTalk or Fantasy-AMAP/fantasy-talking at that commit. Needs torch, einops and tqdm; their other
dependencies are replaced by empty modules, their fused attention (half precision, CUDA only) by exact attention in
float32. Weights and inputs come from parity/seeded.py, so a file holds outputs alone.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.recorders.official import ACCELERATORS, absent, import_from, package, same, save, stand_in, stand_in_diffusers
from parity.seeded import fill_module, numbers

SIZES = {"dim": 96, "ffn_dim": 128, "num_heads": 2, "num_layers": 2, "text_dim": 32, "text_len": 12, "freq_dim": 64}
LATENTS, SIDE, AUDIO_DIM, TOKENS, SIGMA = 4, 8, 24, 5, 0.7
FANTASY_LENGTHS = (3, 5, 5, 4)  # audio tokens that count, by latent


def inputs() -> dict[str, Tensor]:
    """One picture; names are the arguments of TalkingDiT."""
    shapes = {
        "x": (1, 16, LATENTS, SIDE, SIDE), "reference": (1, 20, LATENTS, SIDE, SIDE), "text": (1, SIZES["text_len"], SIZES["text_dim"]),
        "image": (1, 257, 1280)}
    return {name: numbers(f"input.{name}", shape) for name, shape in shapes.items()}


def exact_attention(q: Tensor, k: Tensor, v: Tensor, k_lens: Tensor | None = None, **_: Any) -> Tensor:
    """What the fused kernels approximate; (B, L, H, E), `k_lens` (B,) keys that count."""
    mask = None if k_lens is None else (torch.arange(k.shape[1]) < k_lens[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


def infinitetalk(folder: Path) -> dict[str, Tensor]:
    """One speaker, with the official window grouping and audio projector in front."""
    stand_in_diffusers()
    stand_in("xformers.ops", memory_efficient_attention=lambda q, k, v, attn_bias=None, op=None: exact_attention(q, k, v))
    absent(*ACCELERATORS)
    torch.compile = same  # type: ignore[assignment]
    package(folder, "wan", "wan.modules", "wan.utils")
    official: Any = importlib.import_module("wan.modules.multitalk_model")
    official.flash_attention = exact_attention
    importlib.import_module("wan.utils.multitalk_utils").torch_gc = lambda: None  # type: ignore[attr-defined]
    model = official.WanModel(in_dim=36, **SIZES, intermediate_dim=16, output_dim=AUDIO_DIM, context_tokens=TOKENS)
    fill_module(model)
    model.enable_teacache = False
    data, frames = inputs(), 4 * LATENTS - 3
    heard = numbers("input.audio_windows", (1, frames, 5, 12, 768))
    kept: dict[str, Tensor] = {}
    model.audio_proj.register_forward_hook(lambda _, __, out: kept.update(tokens=out))
    velocity = model(
        list(data["x"]), torch.tensor([1000 * SIGMA]), list(data["text"]), LATENTS * SIDE * SIDE // 4, data["image"],
        list(data["reference"]), heard, torch.ones(3, 8 * SIDE, 8 * SIDE))
    return {"tokens": kept["tokens"], "velocity": velocity}


def fantasytalking(folder: Path) -> dict[str, Tensor]:
    """Audio tokens of unequal number; scale 1, and 0 (no sound)."""
    package(folder, "diffsynth", "diffsynth.models")
    dit: Any = importlib.import_module("diffsynth.models.wan_video_dit")
    official = import_from(folder, "model")
    model = dit.WanModel(model_type="i2v", in_dim=36, cross_attn_norm=True, **SIZES)
    official.FantasyTalkingAudioConditionModel(model, 768, AUDIO_DIM)
    fill_module(model)
    dit.flash_attention = official.flash_attention = official.attention = exact_attention
    data, found = inputs(), {}
    for name, scale in (("velocity", 1.0), ("velocity_silent", 0.0)):
        made = model(
            list(data["x"]), torch.tensor([1000 * SIGMA]), list(data["text"]), LATENTS * SIDE * SIDE // 4, data["image"],
            list(data["reference"]), audio_proj=numbers("input.audio", (1, LATENTS, TOKENS, AUDIO_DIM)),
            audio_context_lens=torch.tensor(FANTASY_LENGTHS), latents_num_frames=LATENTS, audio_scale=scale)
        found[name] = made if isinstance(made, Tensor) else torch.stack(list(made))
    return found


@torch.inference_mode()
def main(name: str, folder: str, commit: str) -> None:
    """Write one file."""
    repository = {"infinitetalk": "MeiGen-AI/InfiniteTalk", "fantasytalking": "Fantasy-AMAP/fantasy-talking"}[name]
    recorded = {"infinitetalk": infinitetalk, "fantasytalking": fantasytalking}[name](Path(folder))
    tensors = {k: v.float() for k, v in recorded.items()}
    save(f"{name}_dit", tensors, repository=f"https://github.com/{repository}", commit=commit, sizes=SIZES)
    logging.info({k: (tuple(v.shape), round(v.square().mean().sqrt().item(), 3)) for k, v in recorded.items()})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:4])
