"""Open checkpoints into our modules, tensor by tensor: the files are never in memory twice.

For use without ComfyUI; in it the host loads the files and its patcher owns the weights (nodes/compat.py). Only
safetensors are read. Scaled fp8 is turned into the type asked for, since plain torch layers cannot compute in it.
Non-goal: what the families are (families.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError
from ..model.dit import TalkingDiT
from ..model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig
from .families import HEAD_DIM, Family, Identified, identify

PROJECTORS = {"fantasytalking": "proj_model.", "multitalk": "audio_proj.", "liveact": "audio_proj."}
SCALES = (".scale_weight", ".weight_scale")  # beside a layer's fp8 weight: the host's two spellings


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A family's transformer and, if it hears, its audio projector."""

    family: Family
    dit: TalkingDiT
    projector: FantasyProjector | GroupedProjector | None
    memory: dict[str, Tensor]  # LiveAct's memory projections, by our names


def load_open_model(
    files: Sequence[Path], *, preset: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16,
    operations: Any = nn, head_dim: int = HEAD_DIM,
) -> OpenModel:
    """The model of a base and its adapter, or of one whole checkpoint; InputError for files that are not one."""
    with _opened(files) as opened:
        shapes = [{k: tuple(f.get_slice(k).get_shape()) for k in f.keys()} for f in opened]  # noqa: SIM118 - not a dict
        found = identify(shapes, preset=preset, head_dim=head_dim)
        reader = Reader(opened, found, torch.device(device), dtype)
        with torch.device("meta"):
            dit, projector = TalkingDiT(found.dit, operations=operations), build_projector(found, operations)
        _fill(dit, "", reader)
        if projector is not None:
            _fill(projector, PROJECTORS[found.family.layout], reader)
        memory = {k: reader(k) for k in found.names if ".memory_proj_" in k}
    return OpenModel(family=found.family, dit=dit, projector=projector, memory=memory)


def build_projector(
    found: Identified, operations: Any = nn, *, device: Any = None, dtype: torch.dtype | None = None,
) -> FantasyProjector | GroupedProjector | None:
    """The family's audio projector at the checkpoint's sizes, without weights."""
    shapes, make = found.projector, {"operations": operations, "device": device, "dtype": dtype}
    if found.family.layout == "fantasytalking":
        dim, audio_dim = shapes["proj.weight"]
        return FantasyProjector(FantasyProjectorConfig(audio_dim=audio_dim, dim=dim), **make)
    if found.family.layout == "wan":
        return None
    hidden, first = shapes["proj1.weight"]
    dim, later = shapes["norm.weight"][0], shapes["proj1_vf.weight"][1]
    of_frame, layers = (later - first) // 3, GroupedProjectorConfig.layers  # windows of 5 and of 8 frames
    return GroupedProjector(GroupedProjectorConfig(
        first_window=first // of_frame, later_window=later // of_frame, audio_dim=of_frame // layers, hidden=hidden, dim=dim,
        tokens=shapes["proj3.weight"][0] // dim), **make)


class Reader:
    """One tensor at a time by our name, on its device and in its type."""

    def __init__(self, opened: Sequence[Any], found: Identified, device: torch.device, dtype: torch.dtype) -> None:
        self._names, self._device, self._dtype = found.names, device, dtype
        self._owner = {key: f for f in opened for key in f.keys()}  # noqa: SIM118 - not a dict

    def __call__(self, name: str) -> Tensor:
        """The tensor; fp8 multiplied by its layer's scale."""
        key = self._names[name]
        value: Tensor = self._owner[key].get_tensor(key)
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


def _fill(module: nn.Module, prefix: str, read: Reader) -> None:
    """Replace each parameter of a module on the meta device; only one tensor is read at a time."""
    for name, _ in list(module.named_parameters()):
        owner = module.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(read(prefix + name), requires_grad=False))
    module.eval()


@contextmanager
def _opened(files: Sequence[Path]) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        opened = []
        for path in files:
            if not path.is_file():
                raise InputError("weights", path, "no such file", "choose a file that is there")
            if path.suffix != ".safetensors":
                raise InputError("weights", path, "only .safetensors files are read (others can run code)", "convert it to safetensors")
            try:
                opened.append(stack.enter_context(safe_open(str(path), "pt")))
            except (SafetensorError, OSError) as error:
                raise InputError("weights", path, f"damaged ({error})", "fetch the file again") from error
        yield opened
