"""Reading safetensors files, for every kind of checkpoint: the same refusals, one tensor in memory at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
REMEDY = "choose a file that is there"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # in safetensors' words: BF16, F8_E4M3, ...
    metadata: dict[str, str]


@contextmanager
def opened(path: Path, *, field: str = "weights", remedy: str = REMEDY, device: str = "cpu") -> Iterator[Any]:
    """A file of safetensors; InputError for one that is missing, of another kind (a pickle can run code) or damaged."""
    _refuse_others(path, field, remedy)
    try:
        with safe_open(str(path), "pt", device=device) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(field, path, f"damaged ({error})", "fetch the file again") from error


def _refuse_others(path: Path, field: str, remedy: str) -> None:
    if not path.is_file():
        raise InputError(field, path, "no such file", remedy)
    if path.suffix != ".safetensors":
        raise InputError(field, path, "only .safetensors files are read (others can run code)", "convert it to safetensors")


def read_header(path: Path, *, field: str = "weights", remedy: str = REMEDY) -> Header:
    """Names, shapes, types and metadata alone; InputError as `opened`, and for a file shorter or longer than it says.

    `opened` maps the whole file, which a machine with less memory than the file refuses; this reads the header's bytes.
    """
    _refuse_others(path, field, remedy)
    try:
        return _parsed(path)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise InputError(field, path, f"damaged ({error})", "fetch the file again") from error


def _parsed(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER_BYTES
        if length >= min(MOST_HEADER_BYTES, max(1, size - 7)):
            raise ValueError("no header of safetensors")
        entries = json.loads(file.read(length))
    metadata = entries.pop("__metadata__", None) or {}
    shapes = {key: tuple(int(n) for n in entry["shape"]) for key, entry in entries.items()}
    end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes of {8 + length + end}")
    if wrong := next((key for key, shape in shapes.items() if min(shape, default=0) < 0), None):
        raise ValueError(f"{wrong} is {shapes[wrong]}")
    return Header(shapes=shapes, dtypes={key: str(entry["dtype"]) for key, entry in entries.items()}, metadata=dict(metadata))


def shapes_in(file: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an open file, from its header."""
    return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict


def fill(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Every parameter of a module laid out on the meta device, read by name: one goes to its place before the next is read."""
    for key, _ in list(module.named_parameters()):
        owner, _, name = key.rpartition(".")
        setattr(module.get_submodule(owner), name, nn.Parameter(read(key), requires_grad=False))
    module.eval()
