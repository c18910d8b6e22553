"""Open checkpoints into our modules, tensor by tensor: the files are never in memory twice.

For use without ComfyUI; in it the host loads the files and its patcher owns the weights (nodes/host/wan.py). Only
safetensors are read. Scaled fp8 is turned into the type asked for, since plain torch layers cannot compute in it.
Non-goal: what the families are (families.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..families.registry import HEAD_DIM, Family, Identified, advise, identify
from ..model.dit import TalkingDiT
from ..model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig
from .files import TensorFile, fill

PROJECTORS = {"fantasytalking": "proj_model.", "multitalk": "audio_proj.", "liveact": "audio_proj."}
SCALES = (".scale_weight", ".weight_scale")  # beside a layer's fp8 weight: the host's two spellings


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A family's transformer and, if it hears, its audio projector."""

    family: Family
    dit: TalkingDiT
    projector: FantasyProjector | GroupedProjector | None


def load_open_model(
    files: Sequence[Path], *, preset: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16,
    operations: Any = nn, head_dim: int = HEAD_DIM,
) -> OpenModel:
    """The model of a base and its adapter, or of one whole checkpoint; InputError for files that are not one."""
    with ExitStack() as stack:
        sources = [stack.enter_context(TensorFile(path)) for path in files]
        found = identify([source.header.shapes for source in sources], preset=preset, head_dim=head_dim)
        advise(found.family, files)
        reader = Reader(sources, found, torch.device(device), dtype)
        with torch.device("meta"):
            dit, projector = TalkingDiT(found.dit, operations=operations), build_projector(found, operations)
        fill(dit, reader)
        if projector is not None:
            prefix = PROJECTORS[found.family.layout]
            fill(projector, lambda name: reader(prefix + name))
    return OpenModel(family=found.family, dit=dit, projector=projector)


def build_projector(
    found: Identified, operations: Any = nn, *, device: Any = None, dtype: torch.dtype | None = None,
) -> FantasyProjector | GroupedProjector | None:
    """The family's audio projector at the checkpoint's sizes, without weights; InputError for sizes that cannot be."""
    if found.family.layout == "wan":
        return None
    kind = FantasyProjector if found.family.layout == "fantasytalking" else GroupedProjector
    return kind(_projector_sizes(found), operations=operations, device=device, dtype=dtype)  # type: ignore[arg-type]


def _projector_sizes(found: Identified) -> FantasyProjectorConfig | GroupedProjectorConfig:
    """Of the checkpoint's audio projector; InputError unless all its tensors agree with them."""
    fantasy = found.family.layout == "fantasytalking"
    try:
        sizes: Any = (FantasyProjectorConfig if fantasy else GroupedProjectorConfig).of(found.projector)
        wanted = (FantasyProjector if fantasy else GroupedProjector)(sizes, device="meta").state_dict()
        fits = {k: tuple(v.shape) for k, v in wanted.items()} == found.projector and sizes.dim == found.dit.audio_dim
    except (LookupError, ValueError, RuntimeError, ArithmeticError):
        fits = False
    if not fits:
        rule = "the tensors of its audio projector are of sizes that contradict each other"
        raise InputError("checkpoint", found.family.title, rule, "fetch the whole file again")
    config: FantasyProjectorConfig | GroupedProjectorConfig = sizes
    return config


class Reader:
    """One tensor at a time by our name, on its device and in its type."""

    def __init__(self, sources: Sequence[TensorFile], found: Identified, device: torch.device, dtype: torch.dtype) -> None:
        self._names, self._device, self._dtype = found.names, device, dtype
        self._owner = {key: source for source in sources for key in source.header.shapes}

    def __call__(self, name: str) -> Tensor:
        """The tensor; fp8 multiplied by its layer's scale."""
        key = self._names[name]
        value = self._owner[key].get_tensor(key)
        if value.element_size() == 1:
            return self._unscaled(key, value)
        return value.to(self._device, self._dtype)

    def _unscaled(self, key: str, value: Tensor) -> Tensor:
        wide = value.to(self._device, torch.float32)
        for suffix in SCALES:
            scale = key.removesuffix(".weight") + suffix
            if scale in self._owner:
                wide *= self._owner[scale].get_tensor(scale).to(self._device, torch.float32)
        return wide.to(self._dtype)
