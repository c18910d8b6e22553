"""Checkpoints: one safetensors file (two if it is large), its metadata saying what it is.

Metadata `talking_machines` is the JSON of a ModelConfig; keys begin with `dit.`, `projector.` and `vae.`.
Only safetensors are read: a pickle can run code. Non-goals: open checkpoints (open_models.py).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import InputError
from ..model.audio_projector import AudioProjector
from ..model.dit import TalkingDiT
from ..model.talking import TalkingModel
from ..vae.tiny import TinyVAE
from .families import looks_like
from .files import TensorFile

__all__ = ["TalkingModel", "default_weights", "load_model", "save_model"]

log = logging.getLogger(__name__)
REMEDY = "choose another file, or leave the choice out for the bundled model"
DESCRIPTION, SECOND = "talking_machines", "talking_machines_second_file"  # metadata keys
MOST_BYTES = 16 * 2**20  # of a file we ship


def default_weights() -> Path:
    """The bundled model."""
    return Path(__file__).parents[1] / "assets" / "weights" / "tiny.safetensors"


def load_model(
    path: Path | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, operations: Any = nn,
) -> TalkingModel:
    """The model of a file (None: the bundled one), ready to use; InputError for a file that is not one."""
    path = default_weights() if path is None else Path(path)
    config, tensors = _read(path)
    model = _build(config, operations)
    for name, module in _parts(model).items():
        _fill(path, name, module, tensors)
        module.to(device=device, dtype=dtype).eval().requires_grad_(False)
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
    parts = {file: file.with_name(file.name + ".part") for file in files}
    try:
        for file, content in files.items():
            save_file(content, str(parts[file]), metadata)
        for file, part in parts.items():
            os.replace(part, file)
    except (SafetensorError, OSError) as error:
        raise InputError("weights", path, f"cannot be written ({error})", "choose a folder with room that you may write to") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _parts(model: TalkingModel) -> dict[str, nn.Module]:
    parts: dict[str, Any] = {"dit": model.dit, "projector": model.projector, "vae": model.vae}
    return {name: part for name, part in parts.items() if part is not None}


def _read(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and tensors of a model, its second file's included."""
    metadata, keys, tensors = _open(path)
    if DESCRIPTION not in metadata:
        raise InputError("weights", path, f"not a Talking Machines checkpoint ({_family(keys)})", REMEDY)
    if second := metadata.get(SECOND):
        if path.name == second:
            raise InputError("weights", path, "is the second file of a model", "choose the file without .vae in its name")
        tensors |= _open(path.with_name(Path(second).name))[2]
    try:
        return ModelConfig.from_dict(json.loads(metadata[DESCRIPTION])), tensors
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("weights", path, f"configuration not understood ({error})", "update the node pack") from error


def _open(path: Path) -> tuple[dict[str, str], list[str], dict[str, Tensor]]:
    """Metadata, keys and, of our own files, tensors."""
    with TensorFile(path, remedy=REMEDY) as file:
        metadata, keys = file.header.metadata, file.keys()
        return metadata, keys, {key: file.get_tensor(key) for key in keys if DESCRIPTION in metadata}


def _family(keys: Sequence[str]) -> str:
    """What a foreign checkpoint looks like, for the message."""
    name = looks_like(keys)
    return "no configuration in it" if name is None else f"its keys are those of {name}"


def _build(config: ModelConfig, operations: Any) -> TalkingModel:
    if config.vae is None:
        raise InputError("weights", config.name, "holds no autoencoder", "use a checkpoint saved by this node pack")
    projector = AudioProjector(config.projector, operations=operations) if config.projector else None
    dit = TalkingDiT(config.dit, operations=operations)
    return TalkingModel(config=config, dit=dit, projector=projector, vae=TinyVAE(config.vae, operations=operations))


def _fill(path: Path, name: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = {key[len(name) + 1 :]: value.float() for key, value in tensors.items() if key.startswith(name + ".")}
    wanted = module.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise InputError("weights", path, f"{len(missing)} tensors missing, first {name}.{missing[0]}", REMEDY)
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise InputError("weights", path, f"{name}.{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}", REMEDY)
    if extra := sorted(set(state) - set(wanted)):
        log.warning("%s: %d tensors not used, first %s.%s", path.name, len(extra), name, extra[0])
    module.load_state_dict({key: state[key] for key in wanted})
