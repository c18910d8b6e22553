"""How much memory loading an open checkpoint takes: a synthetic base and adapter under true names, each loader in a fresh process.

Peak is VmHWM over VmRSS before, the peak mark reset at that point (/proc/self/clear_refs). Both count pages of mapped
files as well as the process's own, and after loading every page of every weight is touched: a loader that only maps its file
pays for it here. Numbers are random bits around 0.02, so no page is empty and nothing is compressed or shared.
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
GB, TILE = 1e9, 2**23  # numbers written at a time
WIDTHS, MOST_BLOCKS = (5120, 2560, 1280, 640, 256), 40
SPARE_GB = 2.0  # disk that must stay free
Shapes = dict[str, tuple[int, ...]]


def shapes_of(gb: float) -> tuple[Shapes, Shapes]:
    """Base and adapter of InfiniteTalk's layout, together at most `gb` in two bytes a number: the widest, then the deepest that fit."""
    for dim in WIDTHS:
        one, two = (2 * numbers_in(*of_size(dim, blocks)) for blocks in (1, 2))
        if one <= gb * GB:
            return of_size(dim, min(MOST_BLOCKS, 1 + int((gb * GB - one) / (two - one))))
    return of_size(WIDTHS[-1], 1)


def numbers_in(*parts: Shapes) -> int:
    """Parameters."""
    return sum(math.prod(shape) for part in parts for shape in part.values())


def of_size(dim: int, blocks: int) -> tuple[Shapes, Shapes]:
    """Tensors of the base and of its adapter; 5120 and 40 are the published ones."""
    from tm_core.config import DiTConfig
    from tm_core.model.dit import TalkingDiT
    from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig

    def tensors(kind: Any) -> Shapes:
        with torch.device("meta"):
            dit = TalkingDiT(DiTConfig(
                dim=dim, ffn_dim=dim * 27 // 10, num_heads=dim // 128, num_layers=blocks, audio_kind=kind))
        return {k: tuple(v.shape) for k, v in dit.state_dict().items()}

    base = tensors("none")
    adapter = {k: v for k, v in tensors("own_q_kv_proj").items() if k not in base}
    projector = GroupedProjector(GroupedProjectorConfig(hidden=dim // 10), device="meta")
    return base, adapter | {f"audio_proj.{k}": tuple(v.shape) for k, v in projector.state_dict().items()}


def write(path: Path, shapes: Shapes, dtype: torch.dtype, seed: int) -> Path:
    """A safetensors file of random numbers, some at a time."""
    name, at, header = {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype], 0, {}
    for key, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": name, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    tile = memoryview(torch.randn(TILE, generator=torch.Generator().manual_seed(seed)).mul(0.02).to(dtype).view(torch.uint8).numpy())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        left = at
        while left:
            left -= file.write(tile[: min(left, len(tile))])
    return path


# -- in the process that is measured -------------------------------------------------------------------------


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) * 1024


def touch(tensors: Iterable[Tensor]) -> int:
    """Read a byte of every page."""
    return sum(int(t.detach().reshape(-1).view(torch.uint8)[::4096].sum(dtype=torch.int64)) for t in tensors if t.numel())


def measured(load: Callable[[], Any], tensors: Callable[[Any], Iterable[Tensor]]) -> dict[str, float]:
    """Bytes that loading takes, at its peak and after it, and seconds."""
    gc.collect()
    before, own, mapped = status("VmRSS"), status("RssAnon"), status("RssFile")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    except OSError:
        before = min(before, status("VmRSS"))  # the peak of the imports counts, too: the figure can only be larger
    began = time.perf_counter()
    model = load()
    touched = touch(tensors(model))
    found = {
        "peak": status("VmHWM") - before, "after": status("VmRSS") - before, "own": status("RssAnon") - own,
        "mapped": status("RssFile") - mapped,
        "seconds": time.perf_counter() - began, "touched": touched}
    del model
    return found


def ours(files: list[Path], dtype: torch.dtype) -> dict[str, float]:
    """load_open_model."""
    from tm_core.weights.open_models import load_open_model

    def tensors(model: Any) -> Iterable[Tensor]:
        return [*model.dit.parameters(), *model.projector.parameters()]

    return measured(lambda: load_open_model(files, dtype=dtype), tensors)


# -- the measurement -----------------------------------------------------------------------------------------


def folder_with_room(gb: float) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for files of this size; InputError where the disk is too full."""
    from tm_core.errors import InputError

    place = Path(os.environ.get("TMPDIR", ROOT / "build"))
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free / GB
    if free < gb + SPARE_GB:
        raise InputError("--gb", gb, f"{free:.1f} GB are free in {place}, {SPARE_GB:g} must stay", "set TMPDIR, or choose less")
    return tempfile.TemporaryDirectory(prefix="tm-bench-loading-", dir=place)


def child(*args: object, python: Path | str = sys.executable) -> dict[str, Any]:
    """This module, or the host's, in a fresh process; its last line."""
    done = subprocess.run([str(python), *map(str, args)], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"loading failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(dtype: str, files: list[str]) -> None:
    """In the fresh process."""
    print(json.dumps(ours([Path(f) for f in files], getattr(torch, dtype))))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1], sys.argv[2:])
