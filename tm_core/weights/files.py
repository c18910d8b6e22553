"""Reading safetensors files, for every kind of checkpoint: the same refusals, one tensor in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")


def shards(path: Path) -> list[Path]:
    """All files of a checkpoint that was published in several, whichever of them is named; InputError for one that is missing."""
    match = SHARD.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    files = [path.with_name(f"{match['stem']}-{i:05}-of-{count:05}.safetensors") for i in range(1, count + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        rule = f"{len(missing)} of its {count} files are missing, first {missing[0]}"
        raise InputError("weights", path.name, rule, "fetch it into the same folder")
    return files


@contextmanager
def opened(path: Path, *, field: str = "weights", remedy: str = "choose a file that is there", device: str = "cpu") -> Iterator[Any]:
    """A file of safetensors; InputError for one that is missing, of another kind (a pickle can run code) or damaged."""
    if not path.is_file():
        raise InputError(field, path, "no such file", remedy)
    if path.suffix != ".safetensors":
        raise InputError(field, path, "only .safetensors files are read (others can run code)", "convert it to safetensors")
    try:
        with safe_open(str(path), "pt", device=device) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(field, path, f"damaged ({error})", "fetch the file again") from error


def shapes_in(file: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an open file, from its header."""
    return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict


def fill(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Every parameter of a module laid out on the meta device, read by name: one goes to its place before the next is read."""
    for key, _ in list(module.named_parameters()):
        owner, _, name = key.rpartition(".")
        setattr(module.get_submodule(owner), name, nn.Parameter(read(key), requires_grad=False))
    module.eval()
