"""Runs inside a ComfyUI's own Python: the host's WanModel, wav2vec2 and video autoencoders against ours, same random weights.

Usage: python host_network.py COMFYUI_FOLDER REPOSITORY; the last line is JSON. Started by host.py; the report is in
benchmarks/parity.py. Imports nothing but the host and tm_core, because that environment has nothing else of ours.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from typing import Any

import torch

F, H, W = 5, 8, 12  # latents and latent grid of the test picture
TEXT_TOKENS, IMAGE_TOKENS = 20, 257
VAE_H, VAE_W = 32, 48  # pixels
CLIPS = (1, 9, 17)  # frames
WAN_SIZES = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}


def load_host(folder: str, repository: str) -> None:
    """Make `comfy` and `tm_core` importable, on the CPU whatever the machine has."""
    sys.path[:0] = [folder, repository]
    importlib.import_module("comfy.cli_args").args.cpu = True


def sizes() -> Any:
    """A small Wan2.1 I2V."""
    config = importlib.import_module("tm_core.config")
    return config.DiTConfig(
        dim=128, ffn_dim=256, num_heads=4, num_layers=3, text_dim=64, text_len=TEXT_TOKENS, freq_dim=64, audio_kind="none",
        image_dim=1280, prediction="velocity")


def host_model(cfg: Any, model_type: str) -> torch.nn.Module:
    """The host's own transformer with random weights, norms and modulation included."""
    wan, ops = importlib.import_module("comfy.ldm.wan.model"), importlib.import_module("comfy.ops")
    model: torch.nn.Module = wan.WanModel(
        model_type=model_type, in_dim=cfg.in_dim, dim=cfg.dim, ffn_dim=cfg.ffn_dim, freq_dim=cfg.freq_dim, text_dim=cfg.text_dim,
        text_len=cfg.text_len, out_dim=cfg.out_dim, num_heads=cfg.num_heads, num_layers=cfg.num_layers,
        dtype=torch.float32, operations=ops.disable_weight_init)
    return randomise(model)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere, norms around 1."""
    rng = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        centre = 1.0 if name.endswith("original0") or ("norm" in name and name.endswith("weight")) else 0.0
        scale = 0.3 if p.dim() == 1 or "modulation" in name else p[0].numel() ** -0.5
        p.data = centre + scale * torch.randn(p.shape, generator=rng)
    return model.eval()


def inputs(cfg: Any) -> dict[str, torch.Tensor]:
    """Two pictures at different noise levels."""
    rng = torch.Generator().manual_seed(1)
    shapes = {
        "x": (2, 16, F, H, W), "reference": (2, 20, F, H, W), "text": (2, TEXT_TOKENS, cfg.text_dim),
        "image": (2, IMAGE_TOKENS, 1280)}
    return {k: torch.randn(shape, generator=rng) for k, shape in shapes.items()} | {"sigma": torch.tensor([0.93, 0.31])}


def compare(ours: torch.nn.Module, host: torch.nn.Module, data: dict[str, torch.Tensor], image: torch.Tensor | None) -> dict[str, float]:
    """Largest difference of the velocities, and the size of what is compared."""
    joined = torch.cat([data["x"], data["reference"]], 1)
    theirs = host(joined, data["sigma"] * 1000, data["text"], clip_fea=image)
    made = ours(data["x"], data["sigma"], reference=data["reference"], text=data["text"], image=image)
    return {"difference": (made - theirs).abs().max().item(), "rms": theirs.square().mean().sqrt().item()}


# -- wav2vec2 -------------------------------------------------------------------------------------------------


def speech() -> torch.Tensor:
    """1.3 s of something like speech (1, 1, n)."""
    return torch.from_numpy(importlib.import_module("parity.seeded").sound(20800))[None, None]


def states_differ(ours: list[torch.Tensor], theirs: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Largest difference over all hidden states."""
    a, b = torch.stack(ours), torch.stack(theirs)
    return {"difference": (a - b).abs().max().item(), "rms": b.square().mean().sqrt().item()}


def compare_wav2vec2() -> dict[str, dict[str, float]]:
    """The host's encoder at reduced and true size, its normalisation, and its loader and node as users run them."""
    theirs, ops = importlib.import_module("comfy.audio_encoders.wav2vec2"), importlib.import_module("comfy.ops")
    ours, families = importlib.import_module("tm_core.audio.wav2vec2"), importlib.import_module("tm_core.audio.speech_families")
    base = {"conv_norm": False, "conv_bias": False, "do_stable_layer_norm": False, "operations": ops.disable_weight_init}
    small = {"embed_dim": 128, "num_heads": 2, "num_layers": 3}
    large = {"embed_dim": 768, "num_heads": 12, "num_layers": 12}
    variants = {"reduced": (small, False), "reduced, normalised, casting operations": (small, True), "base": (large, False)}
    out, sound, state = {}, speech(), {}
    for name, (sizes, normalise) in variants.items():
        host = randomise(theirs.Wav2Vec2Model(**sizes, **base, do_normalize=normalise, dtype=torch.float32))
        state = host.state_dict()
        given = torch.from_numpy(families.normalise_sound(sound[0, 0].numpy())) if normalise else sound[0, 0]
        made = ours.build_wav2vec2(state, operations=ops.manual_cast if "casting" in name else torch.nn)
        out[name] = states_differ(made(given[None]), host(sound)[1])
    out["base, the host's loader and encode node"] = compare_node(state, sound)
    return out


def compare_node(state: dict[str, torch.Tensor], sound: torch.Tensor) -> dict[str, float]:
    """AUDIO_ENCODER_OUTPUT of a file with Hugging Face's names, through `from_host`, against our encoder."""
    encoders = importlib.import_module("comfy.audio_encoders.audio_encoders")
    families = importlib.import_module("tm_core.audio.speech_families")
    build, family = importlib.import_module("tm_core.audio.wav2vec2").build_wav2vec2, families.SPEECH_FAMILIES["fantasytalking"]
    importlib.import_module("comfy.model_patcher")  # the encoder's module relies on it being there
    older = {f"parametrizations.weight.original{i}": name for i, name in enumerate(("weight_g", "weight_v"))}
    file = {"wav2vec2." + next((k.replace(a, b) for a, b in older.items() if a in k), k): v for k, v in state.items()}
    encoder = encoders.load_audio_encoder_from_sd(dict(file))
    stored = encoder.get_sd()  # in the type the host chose
    made = build(stored)(sound[0])[-1][0]
    theirs = families.from_host(encoder.encode_audio(sound, 16000), family)
    return {"difference": (made - theirs).abs().max().item(), "rms": theirs.square().mean().sqrt().item()}


# -- autoencoders ---------------------------------------------------------------------------------------------


def vae_results() -> dict[str, Any]:
    """Wan2.1's autoencoder: whole decode and encode at reduced width, names and sizes at its true one."""
    theirs, ours = importlib.import_module("comfy.ldm.wan.vae"), importlib.import_module("tm_core.vae.wan")
    ops = importlib.import_module("comfy.ops")
    latent_format = importlib.import_module("comfy.latent_formats").Wan21()
    host = random_vae(theirs.WanVAE(dim=32, **WAN_SIZES))
    compared = {}
    for name, operations in {"": torch.nn, ", casting operations": ops.manual_cast}.items():
        made = ours.WanVAE(32, operations=operations, dtype=torch.float32).eval()
        made.load_state_dict(host.state_dict())  # strict: the names are the same
        for frames in CLIPS if not name else CLIPS[1:2]:
            compared |= {f"{what}, {frames} frames{name}": c for what, c in compare_vae(made, host, latent_format, frames).items()}
    with torch.device("meta"):
        true = shapes_of(theirs.WanVAE(dim=96, **WAN_SIZES))
    mine = shapes_of(ours.WanVAE(device="meta"))
    true_sizes = {"tensors": len(true), "parameters": size_of(true), "ours": size_of(mine), "same": mine == true}
    return {"compared": compared, "true": true_sizes, "tiny": tiny_vae_results()}


def tiny_vae_results() -> dict[str, Any]:
    """The tiny autoencoder; its encoder gets the first frame four times, as ours counts it (tm_core/vae/taehv.py)."""
    theirs, ours = importlib.import_module("comfy.taesd.taehv"), importlib.import_module("tm_core.vae.taehv")
    host = random_vae(theirs.TAEHV(latent_channels=16, show_progress_bar=False), last="decoder.22")
    made = ours.TAEHV().eval()
    made.load_state_dict(host.state_dict())
    rng = torch.Generator().manual_seed(3)
    latents, clip = torch.randn(1, 16, 5, VAE_H // 8, VAE_W // 8, generator=rng), torch.rand(17, 3, VAE_H, VAE_W, generator=rng)
    pixels = host.decode(latents)[0].transpose(0, 1)
    encoded = host.encode(torch.cat([clip[:1].expand(3, -1, -1, -1), clip]).transpose(0, 1)[None])
    shown, _ = streamed(made.decode, latents.split(2, 2), made.open_decoder(None), 0)
    ours_encoded, _ = streamed(made.encode, clip.split([5, 12]), made.open_encoder(), 2)
    decoded = difference(shown, pixels.clamp(0, 1), pixels)
    return {"decode, 17 frames": decoded, "encode, 17 frames": difference(ours_encoded, encoded, encoded)}


def random_vae(vae: torch.nn.Module, last: str = "decoder.head.2") -> torch.nn.Module:
    """Random weights whose pictures stay within the range shown, so that clamping hides nothing; `last` makes the colours."""
    rng = torch.Generator().manual_seed(2)
    for name, p in vae.named_parameters():
        centre = 1.0 if name.endswith("gamma") else 0.0
        scale = 0.1 if p.dim() == 1 or name.endswith("gamma") else p[0].numel() ** -0.5
        p.data = centre + scale * torch.randn(p.shape, generator=rng)
    vae.get_parameter(f"{last}.weight").data *= 0.8
    if not last.startswith("decoder.head"):  # 0..1, where Wan's own is -1..1
        vae.get_parameter(f"{last}.weight").data *= 0.4
        vae.get_parameter(f"{last}.bias").data += 0.5
    return vae.eval()


def compare_vae(ours: Any, host: Any, latent_format: Any, frames: int) -> dict[str, dict[str, float]]:
    """Ours, streamed two latents at a call, against the host's whole decode and encode of a clip."""
    rng = torch.Generator().manual_seed(frames)
    latents = torch.randn(1, 16, (frames + 3) // 4, VAE_H // 8, VAE_W // 8, generator=rng)
    pixels = host.decode(latent_format.process_out(latents))[0].transpose(0, 1)
    shown, _ = streamed(ours.decode, latents.split(2, 2), ours.open_decoder(None), 0)
    clip = torch.rand(frames, 3, VAE_H, VAE_W, generator=rng)
    encoded = latent_format.process_in(host.encode(clip.transpose(0, 1)[None] * 2 - 1))
    made, _ = streamed(ours.encode, clip.split([min(5, frames), *[4] * ((frames - 5) // 4)]), ours.open_encoder(), 2)
    return {"decode": difference(shown, (pixels / 2 + 0.5).clamp(0, 1), pixels), "encode": difference(made, encoded, encoded)}


def streamed(run: Any, pieces: Any, state: Any, axis: int) -> tuple[torch.Tensor, Any]:
    """Everything a decoder or an encoder makes of pieces, and its last state."""
    parts = []
    for piece in pieces:
        part, state = run(piece, state)
        parts.append(part)
    return torch.cat(parts, axis), state


def difference(made: torch.Tensor, theirs: torch.Tensor, raw: torch.Tensor) -> dict[str, float]:
    """Largest difference, the size of what is compared, and how much that varies."""
    if made.shape != theirs.shape:
        raise ValueError(f"ours is {tuple(made.shape)}, the host's {tuple(theirs.shape)}")
    return {"difference": (made - theirs).abs().max().item(), "rms": raw.square().mean().sqrt().item(), "spread": theirs.std().item()}


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Every name of its state dict and the shape under it."""
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def size_of(shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers in all of them."""
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@torch.inference_mode()
def main(folder: str, repository: str) -> dict[str, Any]:
    """Everything parity.py reports."""
    load_host(folder, repository)
    ops = importlib.import_module("comfy.ops")
    dit = importlib.import_module("tm_core.model.dit")
    cfg, out = sizes(), {}
    data = inputs(cfg)
    host = host_model(cfg, "i2v")
    weights = host.state_dict()
    builders = {"i2v": torch.nn, "i2v, the host's operations": ops.disable_weight_init, "i2v, casting operations": ops.manual_cast}
    for name, operations in builders.items():
        ours = dit.TalkingDiT(cfg, operations=operations, dtype=torch.float32).eval()
        ours.load_state_dict(weights)  # strict: the names are the same
        out[name] = compare(ours, host, data, data["image"])
    text = host_model(cfg, "t2v")
    ours = dit.TalkingDiT(replace(cfg, image_dim=None)).eval()
    ours.load_state_dict(text.state_dict())
    out["no image"] = compare(ours, text, data, None)
    speaking = dit.TalkingDiT(replace(cfg, audio_kind="shared_q_kv", audio_dim=48)).eval()
    missing, unexpected = speaking.load_state_dict(weights, strict=False)
    audio_only = not unexpected and all(k.endswith(("cross_attn.k_proj.weight", "cross_attn.v_proj.weight")) for k in missing)
    out["i2v with audio layers, no sound"] = compare(speaking, host, data, data["image"])
    version = importlib.import_module("comfyui_version").__version__
    return {
        "version": version, "keys": len(weights), "only_audio_keys_are_new": audio_only, "compared": out, "wav2vec2": compare_wav2vec2(),
        "vae": vae_results()}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
