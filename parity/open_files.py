"""Checkpoints at reduced size, random weights under the published names: what tests and benches put into a ComfyUI's folders.

The transformers are small, what the host fixes the size of is not: wav2vec2-base has its true size, and so has the CLIP-L that
stands for umT5 (11 GB), whose width Wan's text embedding is built for here. Video autoencoders are narrow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from parity.seeded import fill_module, numbers
from tm_core.audio.wav2vec2 import POSITIONS, Wav2Vec2
from tm_core.config import AudioKind, DiTConfig
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE

SIZES: dict[str, Any] = {
    "dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2, "text_len": 8, "freq_dim": 256, "audio_dim": 24}
VAE_WIDTH = 2  # it has to encode 81 frames for every clip
CLIP_L = {"vocabulary": 49408, "tokens": 77, "width": 768, "layers": 12}
State = dict[str, Tensor]


def transformer(kind: AudioKind, text_dim: int = 4096, memory_stride: int = 0) -> State:
    """A transformer's tensors."""
    model = TalkingDiT(DiTConfig(**SIZES, text_dim=text_dim, audio_kind=kind, memory_stride=memory_stride))
    fill_module(model)
    return dict(model.state_dict())


def write_models(folder: Path, *, text_dim: int = 4096, audio_dim: int = 2, fantasy_dim: int = 16) -> dict[str, Path]:
    """A base, an adapter of each kind, a LoRA and a scaled fp8 file; `audio_dim`: width of a speech feature."""
    base = transformer("none", text_dim)
    files = {"base": base, "fp8": scaled(base)}
    grouped = GroupedProjector(GroupedProjectorConfig(audio_dim=audio_dim, hidden=8, dim=24, tokens=3))
    fantasy = FantasyProjector(FantasyProjectorConfig(audio_dim=fantasy_dim, dim=24))
    sound: dict[str, tuple[AudioKind, str, nn.Module]] = {
        "fantasytalking": ("shared_q_kv", "proj_model.", fantasy), "infinitetalk": ("own_q_kv_proj", "audio_proj.", grouped)}
    for name, (kind, prefix, projector) in sound.items():
        fill_module(projector)
        files[name] = {k: v for k, v in transformer(kind, text_dim).items() if k not in base}
        files[name] |= {prefix + k: v for k, v in projector.state_dict().items()}
    memory = {k: v for k, v in transformer("own_q_kv_proj", text_dim, 5).items() if ".memory_proj_" in k}
    files["liveact"] = files["infinitetalk"] | memory
    target, dim = "diffusion_model.blocks.0.self_attn.q", SIZES["dim"]
    files["lora"] = {f"{target}.lora_A.weight": numbers("a", (4, dim)), f"{target}.lora_B.weight": numbers("b", (dim, 4))}
    return save(folder, files)


def write_companions(folder: Path) -> dict[str, Path]:
    """What stands beside a model: autoencoders, speech encoder, text encoder."""
    torch.manual_seed(5)
    narrow, tiny = WanVAE(VAE_WIDTH), TAEHV()
    return save(folder, {
        "vae": dict(narrow.state_dict()), "taew2_1": dict(tiny.state_dict()), "clip_l": clip_l(), "wav2vec2": wav2vec2()})


def wav2vec2() -> State:
    """A wav2vec2-base by its published names, float16; its positional convolution in magnitude and direction."""
    state = dict(Wav2Vec2().state_dict())
    positions = state.pop(POSITIONS + "weight")
    state |= {POSITIONS + "weight_g": positions.square().sum((0, 1), keepdim=True).sqrt(), POSITIONS + "weight_v": positions}
    return {f"wav2vec2.{k}": v.half() for k, v in state.items()}


def clip_l() -> State:
    """A CLIP-L text encoder by its published names, float16."""
    width, made = CLIP_L["width"], {}

    def add(name: str, *shape: int) -> None:
        made[f"text_model.{name}"] = (0.02 * torch.randn(shape)).half()

    add("embeddings.token_embedding.weight", CLIP_L["vocabulary"], width)
    add("embeddings.position_embedding.weight", CLIP_L["tokens"], width)
    for layer in [f"encoder.layers.{i}." for i in range(CLIP_L["layers"])]:
        for part, (out, into) in {
            **{f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v", "out")},
            "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
        }.items():
            add(f"{layer}{part}.weight", out, into)
            add(f"{layer}{part}.bias", out)
    for norm in ["final_layer_norm", *(f"encoder.layers.{i}.layer_norm{n}" for i in range(CLIP_L["layers"]) for n in (1, 2))]:
        made |= {f"text_model.{norm}.weight": torch.ones(width).half(), f"text_model.{norm}.bias": torch.zeros(width).half()}
    return made


def write_clip_vision_h(path: Path) -> Path:
    """A CLIP ViT-H of its true size whose weights are all zero: the file takes no room on the disk, its tokens are zeros."""
    width, inner = 1280, 5120
    made: dict[str, tuple[int, ...]] = {"vision_model.embeddings.class_embedding": (width,), "visual_projection.weight": (1024, width)}
    start = "vision_model.embeddings."
    made |= {f"{start}patch_embedding.weight": (width, 3, 14, 14), f"{start}position_embedding.weight": (257, width)}
    layers = [f"encoder.layers.{i}." for i in range(32)]
    for name in ["pre_layrnorm", "post_layernorm", *(f"{layer}layer_norm{n}" for layer in layers for n in (1, 2))]:
        made |= {f"vision_model.{name}.{part}": (width,) for part in ("weight", "bias")}
    for layer in layers:
        linear = {**{f"self_attn.{p}_proj": (width, width) for p in "qkv"}, "self_attn.out_proj": (width, width)}
        for name, (out, into) in {**linear, "mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}.items():
            made |= {f"vision_model.{layer}{name}.weight": (out, into), f"vision_model.{layer}{name}.bias": (out,)}
    return write_zeros(path, made)


def write_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A float16 safetensors file of zeros, a hole on disks that know them."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def scaled(base: State) -> State:
    """A base as a scaled fp8 file of the host's kind."""
    found: State = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, value in base.items():
        if key.startswith("blocks.") and key.endswith("weight") and value.dim() == 2:
            scale = value.abs().max() / 448
            found[key] = (value / scale).to(torch.float8_e4m3fn)
            found[key.removesuffix("weight") + "scale_weight"] = scale.float()
        else:
            found[key] = value
    return found


def save(folder: Path, files: dict[str, State]) -> dict[str, Path]:
    """Each as NAME.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        save_file({k: v.contiguous() for k, v in content.items()}, str(folder / f"{name}.safetensors"))
    return {name: folder / f"{name}.safetensors" for name in files}
