"""What recorders need to run other people's code without its installation, and to write down what it answered.

Official checkouts import far more than the lines that are recorded: attention kernels, video output, whole pipelines. Here
such modules are replaced by empty ones or by what little is reached, and packages are entered without their `__init__`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from parity.golden import GOLDENS

ACCELERATORS = ("xfuser.core.distributed", "xformers.ops", "imageio", "skimage.color", "torchvision.transforms", "soundfile", "tqdm")


class Absent(types.ModuleType):
    """A module whose functions the recorded code never reaches, or may call for nothing."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def absent(*names: str) -> None:
    """Empty modules for those of `names` that are not installed; a package entered by `package` counts as not installed."""
    for name in names:
        if name not in sys.modules and not _installed(name.split(".")[0]):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                if (whole := ".".join(parts[:end])) not in sys.modules:
                    stand_in(whole)


def _installed(top: str) -> bool:
    if top in sys.modules:
        return sys.modules[top].__spec__ is not None
    return importlib.util.find_spec(top) is not None


def stand_in(name: str, **content: Any) -> None:
    """An importable module with `content`, whatever is installed; empty for the rest."""
    module = Absent(name)
    vars(module).update(content)
    sys.modules[name] = module
    if "." in name:
        parent, child = name.rsplit(".", 1)
        if parent not in sys.modules:
            stand_in(parent)
        setattr(sys.modules[parent], child, module)


def stand_in_diffusers() -> None:
    """The names a model class needs to be defined."""
    stand_in("diffusers", ModelMixin=nn.Module)
    stand_in("diffusers.configuration_utils", ConfigMixin=type("ConfigMixin", (), {}), register_to_config=same)
    stand_in("diffusers.loaders", PeftAdapterMixin=type("PeftAdapterMixin", (), {}))


def same(thing: Any, *_: Any, **__: Any) -> Any:
    """The decorator that does nothing."""
    return thing


def package(folder: Path, *names: str) -> None:
    """Packages under `folder` whose own `__init__` (often the whole pipeline) is not run."""
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder.joinpath(*name.split(".")))]


def import_from(folder: Path, name: str) -> Any:
    """A module of a checkout."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def save(name: str, tensors: dict[str, Tensor], **source: Any) -> None:
    """Write parity/goldens/NAME.safetensors with where its numbers come from."""
    path = GOLDENS / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path), metadata={"source": json.dumps(source)})
    path.chmod(0o644)
