"""Open checkpoints as ordinary ComfyUI models: our transformer inside the host's own model class and patcher.

So LoRA, fp8 and scaled fp8, offloading, `ModelSamplingSD3` and KSampler work as on any model; `TorchCompileModel` reaches
KSampler alone, since a stream calls the blocks itself. The host reads the files, chooses types and casts; weights keep Wan's
names. Sound reaches KSampler through `transformer_options[SOUND]`. Non-goal: streaming (tm_core.streaming).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...tm_core.errors import InputError
from ...tm_core.face.mask import token_mask
from ...tm_core.families.registry import HEAD_DIM, Family, Identified, advise, canonical, identify
from ...tm_core.model.dit import TalkingDiT
from ...tm_core.weights.files import TensorFile
from ...tm_core.weights.open_models import build_projector
from .attention import with_attention

SOUND = "tm_sound"
PART_BYTES = 2**28
TYPES = {"default": None, "fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What a model hears in KSampler: windows and speaking flags of latents, and where in the picture (H, W) they may move it."""

    windows: Callable[[range], Any]
    speaking: Callable[[range], Tensor]
    region: np.ndarray | None = None


class HostedDiT(TalkingDiT):
    """TalkingDiT as the host calls a diffusion model, the audio projector beside it under its published name."""

    def __init__(self, *, found: Identified, operations: Any, device: Any = None, dtype: torch.dtype | None = None, **_: Any) -> None:
        super().__init__(found.dit, operations=with_attention(operations), device=device, dtype=dtype)
        self.dtype, self.found = dtype, found
        self._computes_in: torch.dtype | None = None
        self._computes_on: torch.device | None = None
        projector = build_projector(found, operations, device=device, dtype=dtype)
        if projector is not None:
            self.add_module("proj_model" if found.family.layout == "fantasytalking" else "audio_proj", projector)

    def compute(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        """Say where and in what type layers compute whose weights the host stores elsewhere or otherwise."""
        self._computes_in, self._computes_on = dtype or self._computes_in, device or self._computes_on

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return self._computes_in or super().compute_dtype

    @property
    def compute_device(self) -> torch.device:
        """Where the layers compute."""
        return self._computes_on or super().compute_device

    @property
    def projector(self) -> Any:
        """The family's audio projector, None for a model that does not hear."""
        return getattr(self, "proj_model", None) or getattr(self, "audio_proj", None)

    def forward(  # type: ignore[override]
        self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None, **_: Any,
    ) -> Tensor:
        """Velocity (B, 16, F, h, w) of x (B, 36, F, h, w), noise and reference; timestep (B,) in 0..1000."""
        channels = self.cfg.out_dim
        sound: Sound | None = (transformer_options or {}).get(SOUND)
        heard = {} if sound is None or self.projector is None else self._hear(sound, x)
        return self.network(x[:, :channels], timestep / 1000, reference=x[:, channels:], text=context, image=clip_fea, **heard)

    def _hear(self, sound: Sound, x: Tensor) -> dict[str, Tensor]:
        """The arguments of TalkingDiT for a batch x that all hear the same."""
        latents, (_, down, across) = range(x.shape[2]), self.cfg.patch_size
        like = torch.empty(0, dtype=self.compute_dtype, device=x.device)
        tokens, valid = self.projector.project(sound.windows(latents), sound.speaking(latents), like)
        parts = {"audio": tokens, "audio_valid": valid}
        if sound.region is not None:
            parts["face_mask"] = torch.from_numpy(token_mask(sound.region, (x.shape[3] // down, x.shape[4] // across)))
        return {k: v.to(x.device).expand(len(x), *v.shape) for k, v in parts.items() if v is not None}


class TalkingWan(comfy.model_base.WAN21):
    """The host's Wan with our transformer in it; conditioning, latent format and sampling stay the host's."""

    def __init__(self, model_config: Any, found: Identified, device: Any = None) -> None:
        comfy.model_base.BaseModel.__init__(
            self, model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=partial(HostedDiT, found=found))
        self.image_to_video = True
        self.diffusion_model.compute(dtype=self.manual_cast_dtype)


def load(files: Sequence[Path], *, preset: str | None = None, weight_type: str = "default", head_dim: int = HEAD_DIM) -> Any:
    """A host MODEL (ModelPatcher) of a base and its adapter, or of one checkpoint; InputError for files that are not one."""
    with ExitStack() as stack:
        sources = [stack.enter_context(TensorFile(Path(file))) for file in files]
        found = identify([source.header.shapes for source in sources], preset=preset, head_dim=head_dim)
        advise(found.family, map(Path, files))
        read = {canonical(key): partial(source.get_tensor, key) for source in sources for key in source.header.shapes}
        sketch = {canonical(key): source.sketch(key) for source in sources for key in source.header.shapes}
        config = _configured(sketch, found.family, TYPES[weight_type])
        model = TalkingWan(config, found, device=None)
        offload = comfy.model_management.unet_offload_device()
        model = model.to(offload)
        _fill(model, {name: read[name] for name in sketch})
    return comfy.model_patcher.ModelPatcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)


def _fill(model: Any, read: dict[str, Callable[[], Tensor]]) -> None:
    """The weights, some at a time: the host copies them, so a whole state dict would be in memory beside its copy."""
    network, part, held = model.diffusion_model, dict[str, Tensor](), 0
    if type(network.head.head)._load_from_state_dict is not torch.nn.Module._load_from_state_dict:
        model.load_model_weights({name: get() for name, get in read.items()}, "")  # layers of the host's that must see all at once
        return
    for name, get in read.items():
        part[name] = get()
        held += part[name].nbytes
        if held >= PART_BYTES:
            network.load_state_dict(model.model_config.process_unet_state_dict(part), strict=False)
            part, held = {}, 0
    network.load_state_dict(model.model_config.process_unet_state_dict(part), strict=False)


def _configured(state: dict[str, Tensor], family: Family, dtype: torch.dtype | None) -> Any:
    """The host's configuration of this Wan: detection, types and casting are its own."""
    config = comfy.model_detection.model_config_from_unet(state, "")
    if config is None or config.unet_config.get("model_type") not in ("i2v", "t2v"):
        raise InputError("checkpoint", family.title, "this ComfyUI does not know it as Wan", "update ComfyUI")
    management = comfy.model_management
    scaled = getattr(config, "scaled_fp8", None) is not None
    stored = None if scaled else comfy.utils.weight_dtype(state)
    chosen = dtype or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state), supported_dtypes=list(config.supported_inference_dtypes), weight_dtype=stored)
    config.sampling_settings = {**config.sampling_settings, "shift": family.shift}
    cast = management.unet_manual_cast(chosen, management.get_torch_device(), config.supported_inference_dtypes)
    config.set_inference_dtype(chosen, cast)
    return config
