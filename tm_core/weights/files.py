"""Reading safetensors files, for every kind of checkpoint: the same refusals, one tensor in memory at a time.

A file may come from anyone: nothing it says of itself is believed before it agrees with its length, and what is not
needed is not read. Files are written whole or not at all (outputs.py). Non-goal: what the tensors are (families.py, ...).
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..outputs import Staged, write_error

SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")  # of a checkpoint in several files
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in TYPES.items()}
SMALL_BYTES = 4096
MOST_AXES = 16
MOST_BRACKETS = 300_000  # three for a tensor
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
MOST_HEADER_BYTES = 8 * 2**20  # ten times the longest published one; safetensors' own limit, 100 MB, is gigabytes once parsed
REMEDY = "choose a file that is there"
AGAIN = "fetch the file again"


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
    count = max(1, int(match["count"]))
    files = [path.with_name(f"{match['stem']}-{i:05}-of-{count:05}.safetensors") for i in range(1, count + 1)]
    if missing := [file.name for file in files if not os.path.isfile(file)]:
        rule = f"{len(missing)} of its {count} files are missing, first {missing[0]}"
        raise InputError("weights", path.name, rule, "fetch it into the same folder")
    return files


def read_header(path: Path, *, field: str = "weights", remedy: str = REMEDY) -> Header:
    """Names, shapes, types and metadata alone, from the header's bytes.

    InputError for a file that is missing, of another kind (a pickle can run code), or not what its header says.
    """
    with _open(path, field, remedy) as file:
        return _header_of(file, path, field)


def _open(path: Path, field: str, remedy: str) -> BinaryIO:
    if path.suffix != ".safetensors":
        raise InputError(field, path, "only .safetensors files are read (others can run code)", "convert it to safetensors")
    try:
        if path.is_file():  # neither a folder nor a pipe, which would never end
            return cast(BinaryIO, path.open("rb", buffering=0))
    except OSError as error:
        raise InputError(field, path, f"cannot be read ({error.strerror})", remedy) from error
    raise InputError(field, path, "no such file", remedy)


def _header_of(file: BinaryIO, path: Path, field: str) -> Header:
    try:
        return _parsed(file, os.fstat(file.fileno()).st_size)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise InputError(field, path, f"damaged ({error})", AGAIN) from error


def _parsed(file: BinaryIO, size: int) -> Header:
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > size - 8 or length < 2:
        raise ValueError("no header of safetensors")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, at most {MOST_HEADER_BYTES} are read")
    text = file.read(length)
    bare = STRING.sub(b"", text)
    if (brackets := bare.count(b"[") + bare.count(b"{")) > MOST_BRACKETS:  # megabytes of [] are a gigabyte of lists
        raise ValueError(f"its header has {brackets} brackets")
    entries = json.loads(text, object_pairs_hook=_unlike, parse_constant=_no_number)
    if not isinstance(entries, dict):
        raise ValueError("its header is no object of JSON")
    metadata = _texts(entries.pop("__metadata__", None) or {})
    tensors = {key: _tensor(key, entry) for key, entry in entries.items()}
    _check_tiling((span for _, _, span in tensors.values()), size - 8 - length)
    return Header(
        shapes={key: shape for key, (_, shape, _) in tensors.items()}, dtypes={key: dtype for key, (dtype, _, _) in tensors.items()},
        metadata=metadata, spans={key: (8 + length + at, count) for key, (_, _, (at, count)) in tensors.items()})


def _texts(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not names with texts")
    return metadata


def _tensor(key: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and span (start, bytes) of a header's entry; ValueError where they contradict each other."""
    if not isinstance(entry, dict) or not isinstance(name := entry.get("dtype"), str):
        raise ValueError(f"{key} is not described")
    if len(entry["shape"]) > MOST_AXES:
        raise ValueError(f"{key} has {len(entry['shape'])} axes")
    shape, (start, stop) = tuple(_count(n) for n in entry["shape"]), map(_count, entry["data_offsets"])
    dtype, numbers, count = TYPES.get(name), math.prod(shape), _count(stop - start)
    if numbers > 8 * count if dtype is None else numbers * dtype.itemsize != count:  # of other types: a bit a number at least
        raise ValueError(f"{key}: {name} {shape} in {count} bytes")
    return name, shape, (start, count)


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names are all different."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:  # a bool is an int to Python
        raise ValueError(f"{value!r} is no count")
    return value


def _check_tiling(spans: Iterable[tuple[int, int]], size: int) -> None:
    """ValueError unless the spans (start, length) lie one after the other, from the first byte of the data to its last."""
    end = 0
    for start, count in sorted(spans):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(start, end)} of the data")
        end += count
    if end != size:
        raise ValueError(f"it has {size} bytes of {end}")


class TensorFile:
    """Tensors of a file into memory of their own, one at a time; close it when done.

    Nothing is mapped: pages of a mapping count as this process's memory for as long as it lives, so that a file whose
    tensors are cast while they are read would be there twice, and one larger than the machine's memory not at all.
    """

    def __init__(self, path: Path, *, field: str = "weights", remedy: str = REMEDY) -> None:
        self._path, self._field, self._file = path, field, _open(path, field, remedy)
        try:
            self.header = _header_of(self._file, path, field)
        except BaseException:
            self._file.close()
            raise

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
        """One tensor on the CPU in the file's type; InputError for an unknown type and for what cannot be read or held."""
        dtype = TYPES.get(self.header.dtypes[key])
        shape, (start, count) = self.header.shapes[key], self.header.spans[key]
        if dtype is None:
            raise self._refusal(f"{key} is of a type that is not known here, {self.header.dtypes[key]}", "use a file of another precision")
        try:
            values = torch.empty(count, dtype=torch.uint8, device="cpu")
        except RuntimeError as error:
            raise self._refusal(f"{key} needs {count / 2**30:.1f} GiB, more than there is", "use a smaller model") from error
        try:
            missing = self._read_into(memoryview(cast(Any, values.numpy())), start)
        except OSError as error:
            raise self._refusal(f"cannot be read ({error.strerror})", AGAIN) from error
        if missing:
            raise self._refusal(f"damaged ({key} ends early)", AGAIN)
        return values.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype, device="cpu")

    def _refusal(self, rule: str, remedy: str) -> InputError:
        return InputError(self._field, self._path, rule, remedy)

    def _read_into(self, into: memoryview, start: int) -> int:
        """Fill `into` from byte `start` on; how many bytes the file is short of."""
        self._file.seek(start)
        while len(into) and (read := cast(Any, self._file).readinto(into)):  # a call reads 2 GiB at most
            into = into[read:]
        return len(into)


def fill(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Every tensor of a module laid out on the meta device, read by name: one goes to its place before the next is read."""
    parameters = {key for key, _ in module.named_parameters()}
    for key in list(module.state_dict()):
        owner, _, name = key.rpartition(".")
        value = read(key)
        setattr(module.get_submodule(owner), name, nn.Parameter(value, requires_grad=False) if key in parameters else value)
        del value  # before the next is read
    module.eval()


def save_tensors(files: Mapping[Path, Mapping[str, Tensor]], metadata: dict[str, str] | None = None, field: str = "weights") -> None:
    """Write files of tensors (on the CPU), all with the same metadata, all of them or none; InputError where that cannot be done."""
    with ExitStack() as stack:
        parts = {file: stack.enter_context(Staged(file, field)) for file in files}
        for file, tensors in files.items():
            try:
                _write(parts[file], tensors, metadata)
            except OSError as error:
                raise write_error(field, file, error) from error


def _write(part: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    """One file, tensor by tensor. safetensors' own `save_file` writes under a name of its own making, which a kill would leave."""
    if not all(isinstance(value, str) for value in (metadata or {}).values()):
        raise TypeError("metadata are texts")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that every tensor is aligned
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name in order:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(part, "r+b") as file:  # the file that is locked
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
