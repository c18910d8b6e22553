"""Checkpoints: one safetensors file (two if it is large), its metadata saying what it is.

Metadata `talking_machines` is the JSON of a ModelConfig; keys begin with `dit.`, `projector.` and `vae.`; those that
begin with `vae.mouth.` are a mouth head's, which a model may do without. The bundled model's is in a file of its own.
Only safetensors are read: a pickle can run code. Non-goals: open checkpoints (open_models.py).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import ModelConfig
from ..errors import InputError
from ..families.registry import looks_like
from ..model.audio_projector import AudioProjector
from ..model.dit import TalkingDiT
from ..model.talking import TalkingModel
from ..vae.mouth_head import MouthHead
from ..vae.tiny import TinyVAE
from .files import AGAIN, TensorFile, fill, save_tensors

__all__ = ["TalkingModel", "default_weights", "load_model", "save_model"]

log = logging.getLogger(__name__)
REMEDY = "choose another file, or leave the choice out for the bundled model"
SECOND_NAME = re.compile(r"[^/\\:\0]+\.safetensors")  # beside the first: a file must not name another folder's
DESCRIPTION, SECOND = "talking_machines", "talking_machines_second_file"  # metadata keys
MOUTH = "vae.mouth."  # keys of the mouth head
MOST_BYTES = 16 * 2**20  # of a file we ship


def default_weights() -> Path:
    """The bundled model."""
    return Path(__file__).parents[1] / "assets" / "weights" / "tiny.safetensors"


def default_mouth() -> Path:
    """The bundled model's mouth head."""
    return default_weights().with_name("tiny.mouth.safetensors")


def load_model(
    path: Path | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, operations: Any = nn,
) -> TalkingModel:
    """The model of a file (None: the bundled one), ready to use; InputError for a file that is not one."""
    own, path = path is None, default_weights() if path is None else Path(path)
    with ExitStack() as stack:
        files = _files(path, stack)
        if own and default_mouth().is_file():
            files.append(stack.enter_context(TensorFile(default_mouth(), remedy=REMEDY)))
        # what torch needs for a layout without memory takes it 2 s to load; our own file's sizes are known
        model, vae = _build(path, _config(path, files[0].header.metadata), operations, "cpu" if own else "meta")
        if any(key.startswith(MOUTH) for file in files for key in file.keys()):  # noqa: SIM118 - not a dict
            with torch.device("cpu" if own else "meta"):
                vae.mouth = new_mouth_head(vae, operations)
        for name, module in _parts(model).items():
            _fill(path, name, module, files)
            module.to(device=device, dtype=dtype)
    return model


def save_model(model: TalkingModel, path: Path, *, extra: dict[str, str] | None = None, dtype: torch.dtype = torch.float16) -> None:
    """Write a model whole or not at all; `extra` goes into the metadata (model card facts). InputError where it cannot.

    A model of more than MOST_BYTES has its autoencoder in a second file beside the first, NAME.vae.safetensors.
    """
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", dtype).contiguous()
        for name, module in _parts(model).items() for key, value in module.state_dict().items()
    }
    metadata = {DESCRIPTION: json.dumps(model.config.to_dict()), **(extra or {})}
    files = {path: tensors}
    if sum(t.nbytes for t in tensors.values()) > MOST_BYTES:
        second = path.with_name(f"{path.stem}.vae.safetensors")
        mine = {k for k in tensors if k.startswith("vae.")}
        files = {second: {k: tensors[k] for k in mine}, path: {k: v for k, v in tensors.items() if k not in mine}}
        metadata[SECOND] = second.name
    save_tensors(files, metadata)


def new_mouth_head(vae: TinyVAE, operations: Any = nn) -> MouthHead:
    """A mouth head of the sizes that fit an autoencoder; its weights are still random."""
    return MouthHead(features=vae.cfg.width * 3 // 4, channels=vae.cfg.latent_channels, operations=operations)


def save_mouth(head: MouthHead, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a mouth head alone, as the bundled one is kept; InputError where it cannot."""
    save_tensors({path: {MOUTH + key: value.detach().to("cpu", dtype).contiguous() for key, value in head.state_dict().items()}})


def _parts(model: TalkingModel) -> dict[str, nn.Module]:
    parts: dict[str, Any] = {"dit": model.dit, "projector": model.projector, "vae": model.vae}
    return {name: part for name, part in parts.items() if part is not None}


def _files(path: Path, stack: ExitStack) -> list[TensorFile]:
    """The file of a model and its second one, where there is one."""
    first = stack.enter_context(TensorFile(path, remedy=REMEDY))
    metadata = first.header.metadata
    if DESCRIPTION not in metadata:
        raise InputError("weights", path, f"not a Talking Machines checkpoint ({_family(first.keys())})", REMEDY)
    second = metadata.get(SECOND)
    if second is None:
        return [first]
    if second == path.name:
        raise InputError("weights", path, "is the second file of a model", "choose the file without .vae in its name")
    if not SECOND_NAME.fullmatch(second):
        raise InputError("weights", path, f"damaged (it names {second} as its second file)", AGAIN)
    return [first, stack.enter_context(TensorFile(path.with_name(second), remedy=REMEDY))]


def _config(path: Path, metadata: Mapping[str, str]) -> ModelConfig:
    """The configuration that metadata hold; InputError for one of another version, and for one that cannot be."""
    try:
        config = ModelConfig.from_dict(json.loads(metadata[DESCRIPTION]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError("weights", path, f"configuration not understood ({error})", "update the node pack") from error
    if rule := _contradiction(config):
        raise InputError("weights", path, f"damaged ({rule})", AGAIN)
    return config


def _contradiction(config: ModelConfig) -> str | None:
    """What two fields of a configuration say against each other, None for nothing; sizes that tensors show are not among them."""
    dit, vae, projector, audio = config.dit, config.vae, config.projector, config.audio
    checks = {
        f"{dit.dim} channels are no {dit.num_heads} heads": dit.dim % (2 * dit.num_heads) == 0,
        f"{config.width} x {config.height} pixels are no whole tokens":
            config.width % (8 * dit.patch_size[2]) == 0 and config.height % (8 * dit.patch_size[1]) == 0,
        "its autoencoder makes other latents than its transformer reads":
            vae is None or (vae.latent_channels, vae.temporal_stride, vae.spatial_stride) == (dit.out_dim, 4, 8) == (dit.in_dim - 20, 4, 8),
        "its audio projector makes other tokens than its transformer reads":
            projector is None or (projector.dim, projector.n_mels) == (dit.audio_dim, audio.n_mels),
        "its noise levels do not descend from 1": config.sampler.sigmas == tuple(sorted(config.sampler.sigmas, reverse=True))
            and config.sampler.sigmas[0] == 1 and config.sampler.sigmas[-1] >= 0,
    }
    return next((rule for rule, holds in checks.items() if not holds), None)


def _family(keys: Sequence[str]) -> str:
    """What a foreign checkpoint looks like, for the message."""
    name = looks_like(keys)
    return "no configuration in it" if name is None else f"its keys are those of {name}"


def _build(path: Path, config: ModelConfig, operations: Any, device: str) -> tuple[TalkingModel, TinyVAE]:
    """The model and its autoencoder, of anybody's file on the meta device: nothing is allocated before its tensors agree with its sizes."""
    if config.vae is None:
        raise InputError("weights", config.name, "holds no autoencoder", "use a checkpoint saved by this node pack")
    try:
        with torch.device(device):
            projector = AudioProjector(config.projector, operations=operations) if config.projector else None
            dit, vae = TalkingDiT(config.dit, operations=operations), TinyVAE(config.vae, operations=operations)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError("weights", path, f"damaged (no model has its sizes: {error})", AGAIN) from error
    return TalkingModel(config=config, dit=dit, projector=projector, vae=vae), vae


def _fill(path: Path, name: str, module: nn.Module, files: Sequence[TensorFile]) -> None:
    owner = {key[len(name) + 1 :]: file for file in files for key in file.keys() if key.startswith(name + ".")}  # noqa: SIM118 - not a dict
    wanted = module.state_dict()
    if missing := sorted(set(wanted) - set(owner)):
        raise InputError("weights", path, f"{len(missing)} tensors missing, first {name}.{missing[0]}", REMEDY)
    for key, value in wanted.items():
        shape = owner[key].header.shapes[f"{name}.{key}"]
        if shape != value.shape:
            raise InputError("weights", path, f"{name}.{key} is {shape}, not {tuple(value.shape)}", REMEDY)
    if extra := sorted(set(owner) - set(wanted)):
        log.warning("%s: %d tensors not used, first %s.%s", path.name, len(extra), name, extra[0])
    fill(module, lambda key: owner[key].get_tensor(f"{name}.{key}").float())
    module.requires_grad_(False)
