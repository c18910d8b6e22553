"""Reading safetensors files, for every kind of checkpoint: the same refusals, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")  # of a checkpoint in several files
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool}
SMALL_BYTES = 4096
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
REMEDY = "choose a file that is there"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # in safetensors' words: BF16, F8_E4M3, ...
    metadata: dict[str, str]
    spans: dict[str, tuple[int, int]]  # where a tensor's bytes begin and how many they are


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


def _refuse_others(path: Path, field: str, remedy: str) -> None:
    if not path.is_file():
        raise InputError(field, path, "no such file", remedy)
    if path.suffix != ".safetensors":
        raise InputError(field, path, "only .safetensors files are read (others can run code)", "convert it to safetensors")


def read_header(path: Path, *, field: str = "weights", remedy: str = REMEDY) -> Header:
    """Names, shapes, types and metadata alone, from the header's bytes.

    InputError for a file that is missing, of another kind (a pickle can run code), or shorter or longer than it says.
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
    spans = {key: tuple(int(n) for n in entry["data_offsets"]) for key, entry in entries.items()}
    return Header(
        shapes=shapes, dtypes={key: str(entry["dtype"]) for key, entry in entries.items()}, metadata=dict(metadata),
        spans={key: (8 + length + start, stop - start) for key, (start, stop) in spans.items()})


class TensorFile:
    """Tensors of a file into memory of their own, one at a time; close it when done.

    Nothing is mapped: pages of a mapping count as this process's memory for as long as it lives, so that a file whose
    tensors are cast while they are read would be there twice, and one larger than the machine's memory not at all.
    """

    def __init__(self, path: Path, *, field: str = "weights", remedy: str = REMEDY) -> None:
        self.header = read_header(path, field=field, remedy=remedy)
        self._path, self._field, self._file = path, field, path.open("rb", buffering=0)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        """Names."""
        return list(self.header.shapes)

    def sketch(self, key: str) -> Tensor:
        """A tensor's type and shape without its numbers; small ones whole, as a host reads settings from them."""
        if self.header.spans[key][1] <= SMALL_BYTES:
            return self.get_tensor(key)
        return torch.empty(self.header.shapes[key], dtype=TYPES.get(self.header.dtypes[key], torch.uint8), device="meta")

    def get_tensor(self, key: str) -> Tensor:
        """One tensor on the CPU in the file's type; InputError for a type or a length that cannot be."""
        dtype = TYPES.get(self.header.dtypes[key])
        shape, (start, count) = self.header.shapes[key], self.header.spans[key]
        if dtype is None or math.prod(shape) * dtype.itemsize != count:
            rule = f"damaged ({key}: {self.header.dtypes[key]} {shape} in {count} bytes)"
            raise InputError(self._field, self._path, rule, "fetch the file again")
        values = torch.empty(count, dtype=torch.uint8)
        into = memoryview(cast(Any, values.numpy()))
        self._file.seek(start)
        while len(into) and (read := self._file.readinto(into)):  # a call reads 2 GiB at most
            into = into[read:]
        if len(into):
            raise InputError(self._field, self._path, f"damaged ({key} ends early)", "fetch the file again")
        return values.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def fill(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Every parameter of a module laid out on the meta device, read by name: one goes to its place before the next is read."""
    for key, _ in list(module.named_parameters()):
        owner, _, name = key.rpartition(".")
        setattr(module.get_submodule(owner), name, nn.Parameter(read(key), requires_grad=False))
    module.eval()
