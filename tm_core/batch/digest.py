"""What an item is made of, as a hash: a video is made again when its files, its options or the model change.

Non-goals: the version of this program; a newer one does not make finished videos again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import InputError
from ..model.talking import TalkingModel
from ..weights.loading import default_weights
from .manifest import BatchItem

SAMPLES = 4096  # numbers of each tensor that tell one set of weights from another


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_digest(path: Path | None) -> str:
    """Of a model's file, of the second one that large models have, and of the bundled one's mouth head."""
    path = path or default_weights()
    others = [path.with_name(f"{path.stem}.{part}{path.suffix}") for part in ("vae", "mouth")]
    try:
        return " ".join(file_digest(p) for p in (path, *others) if p == path or p.is_file())
    except OSError as error:
        raise InputError("weights", path, f"cannot be read ({error.strerror})", "check the path") from error


def model_digest(model: TalkingModel) -> str:
    """Of a model in memory: its configuration and numbers taken evenly from each of its tensors."""
    parts: tuple[Any, ...] = (model.dit, model.projector, model.vae)
    return parts_digest(model.config, [part.state_dict() for part in parts if part is not None])


def parts_digest(config: ModelConfig, parts: Iterable[Mapping[str, Tensor]]) -> str:
    """As model_digest, of a model whose tensors are somebody else's to name."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for part in parts:
        for name, value in part.items():
            some = _some(value, SAMPLES).to("cpu", torch.float32)
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def content_digest(value: Any, most: int | None = None) -> str:
    """Of JSON's types, tensors and collections of both; `most`: numbers of each tensor that are looked at, taken evenly."""
    digest = hashlib.sha256()
    for part in _flat(value, most):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _flat(value: Any, most: int | None) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{tuple(value.shape)} {value.dtype}".encode()
        yield _some(value, most).to("cpu").contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"{len(value)} named".encode()
        for name in sorted(value):
            yield name.encode()
            yield from _flat(value[name], most)
    elif isinstance(value, list | tuple):
        yield f"{len(value)} in order".encode()
        for part in value:
            yield from _flat(part, most)
    else:
        yield json.dumps(value).encode()


def _some(value: Tensor, most: int | None) -> Tensor:
    flat = value.detach().flatten()
    return flat if most is None else flat[:: max(1, len(flat) // most)]


class Digests:
    """Hashes of items; a file that many items share is read once."""

    def __init__(self, model: str) -> None:
        """`model`: hash of the weights."""
        self._model = model
        self._files: dict[tuple[str, int, int], str] = {}

    def of(self, item: BatchItem) -> str:
        """The hash of an item; InputError where a file went away."""
        made_of = {name: self._file(name, path) for name, path in item.files.items()}
        text = json.dumps({"model": self._model, "files": made_of, "options": item.options.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _file(self, name: str, path: Path) -> str:
        try:
            stat = os.stat(path)
            key = str(path), stat.st_size, stat.st_mtime_ns
            if key not in self._files:
                self._files[key] = file_digest(path)
        except OSError as error:
            raise InputError(name, path, f"cannot be read ({error.strerror})", "check the file") from error
        return self._files[key]
