"""Video autoencoders of Wan2.1's latents from their published files: Wan2.1's own, and the tiny TAEHV.

Which one a file holds is read off its keys. The network is laid out without memory and each tensor goes to its place,
type and device as it is read, so the file is never in memory twice. Only safetensors: a pickle can run code.
Non-goals: our own models (loading.py), which carry their autoencoder with them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import LARGEST
from ..errors import InputError
from ..model.open_projectors import Shapes
from ..vae.base import StreamingVAE
from ..vae.geometry import LATENT_CHANNELS
from ..vae.taehv import TAEHV
from ..vae.wan import WanVAE
from .files import AGAIN, TensorFile, fill

__all__ = ["build_autoencoder", "load_autoencoder"]

log = logging.getLogger(__name__)
REMEDY = "choose wan_2.1_vae.safetensors, or taew2_1.safetensors for the fast one"
WAN, WAN22, TINY = "decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight", "decoder.22.bias"
STRANGERS = (  # start of a key that only this has, most telling first
    ("vae.from_latent", "a Talking Machines checkpoint, which brings its own autoencoder"),
    ("decoder.mid_block.attentions.0.to_qkv", "Wan's autoencoder under the names of diffusers"),
    ("decoder.mid_block", "an autoencoder under the names of diffusers"),
    ("decoder.mid.block_1", "an image autoencoder (Stable Diffusion, Flux)"),
    ("first_stage_model.", "a whole image checkpoint (Stable Diffusion)"),
    ("decoder.up_blocks", "a video autoencoder of another model (LTX, Hunyuan)"),
    ("blocks.0.self_attn", "a Wan diffusion model"),
    ("model.diffusion_model.", "a diffusion model"),
    ("visual.", "a vision encoder"),
    ("wav2vec2.", "an audio encoder"),
)
TINY_OF = {48: "Wan2.2 5B (taew2_2)", 32: "HunyuanVideo 1.5 (taehv1_5)", 128: "LTX (taeltx)"}  # by latent channels


def load_autoencoder(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, operations: Any = nn,
) -> StreamingVAE:
    """The autoencoder of a file, ready to use; InputError for a file that is not one of Wan2.1's latents."""
    path = Path(path)
    with TensorFile(path, field="vae", remedy=REMEDY) as file:
        module = recognise(path, file.header.shapes, dtype, operations)
        check_names(path, module, file.header.shapes)
        fill(module, lambda key: file.get_tensor(key).to(device, dtype))
    vae: StreamingVAE = module
    return vae


def build_autoencoder(state: Mapping[str, Tensor], name: str, operations: Any = nn) -> StreamingVAE:
    """The autoencoder of weights that somebody else has loaded, sharing their memory; `name` is for the InputError it may raise."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    module = recognise(Path(name), shapes, next(iter(state.values())).dtype, operations)
    check_names(Path(name), module, shapes)
    fill(module, state.__getitem__)
    vae: StreamingVAE = module
    return vae


def recognise(path: Path, shapes: Shapes, dtype: torch.dtype, operations: Any) -> Any:
    """The network these keys belong to, on the meta device; InputError naming what else they look like."""
    make: dict[str, Any] = {"operations": operations, "device": "meta", "dtype": dtype}
    if WAN22 in shapes:
        rule = "is the Wan2.2 autoencoder (48 latent channels), which only Wan2.2's 5B model uses"
        raise InputError("vae", path, rule, f"14B models use Wan2.1's: {REMEDY}")
    if WAN in shapes and (width := shapes.get("decoder.head.0.gamma")):
        if not 0 < width[0] <= LARGEST:
            raise InputError("vae", path, f"damaged: decoder.head.0.gamma cannot be {width}", AGAIN)
        return WanVAE(width[0], **make)
    if TINY in shapes and len(shapes.get("decoder.1.weight", ())) == 4:
        _refuse_other_latents(path, shapes)
        return TAEHV(**make)
    found = next((name for start, name in STRANGERS if any(key.startswith(start) for key in shapes)), None)
    looks = f"looks like {found}" if found else f"has none of its keys (first: {min(shapes, default='none at all')})"
    raise InputError("vae", path, f"no autoencoder of Wan2.1's latents: {looks}", REMEDY)


def check_names(path: Path, module: nn.Module, shapes: Shapes) -> None:
    """InputError unless the file has exactly the network's names and shapes."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    kind = type(module).__name__
    if missing := sorted(set(wanted) - set(shapes)):
        raise InputError("vae", path, f"{kind} without {len(missing)} of its tensors, first {missing[0]}", AGAIN)
    if extra := sorted(set(shapes) - set(wanted)):
        raise InputError("vae", path, f"{kind} with {len(extra)} tensors too many, first {extra[0]}", REMEDY)
    for key, shape in wanted.items():
        if shapes[key] != shape:
            raise InputError("vae", path, f"{key} is {shapes[key]}, in {kind} {shape}", REMEDY)


def _refuse_other_latents(path: Path, shapes: Shapes) -> None:
    """InputError for a TAEHV of other latents; a note where only the file's name speaks of another model."""
    channels = shapes["decoder.1.weight"][1]
    if channels != LATENT_CHANNELS:
        owner = TINY_OF.get(channels, "another model")
        raise InputError("vae", path, f"is the tiny autoencoder of {owner}, {channels} latent channels", "choose taew2_1.safetensors")
    if path.stem.lower().startswith(("taehv", "taecvx", "taeos")):
        log.warning("%s: by its name for another model's latents; its keys are those of taew2_1, Wan2.1's", path.name)
