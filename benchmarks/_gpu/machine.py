"""Versions and ceilings: what the card, its memory and its link can do, which every other figure is held against."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F

from benchmarks._gpu.record import Recorder, first_line
from benchmarks._gpu.timing import milliseconds, wait
from tm_core.cli.bench import commit, machine

PACKAGES = ("numpy", "safetensors", "triton", "einops", "PIL", "scipy", "librosa", "av", "typer", "psutil", "pytest")
FP8 = torch.float8_e4m3fn


def run(told: Recorder) -> None:
    """Words first, then each ceiling; one that this device does not have is a row that says so."""
    _versions(told)
    for measure in (_products, _fp8_products, _memory, _attention, _link, _launches):
        try:
            measure(told)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            told.unable(measure.__name__.strip("_").replace("_", " "), error)
        if told.cuda:
            torch.cuda.empty_cache()


def _versions(told: Recorder) -> None:
    told.row("machine", machine())
    told.row("commit", _commit())
    told.row("python", platform.python_version())
    told.row("torch", torch.__version__)
    told.row("CUDA of torch", str(torch.version.cuda))
    told.row("cuDNN", str(torch.backends.cudnn.version()))
    told.row("compiler for torch.compile", next((c for c in ("gcc", "cc", "clang") if shutil.which(c)), "none"))
    told.row("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    if told.cuda:
        props = torch.cuda.get_device_properties(told.device)
        told.row("card", props.name)
        told.row("its memory", props.total_memory / 1e9, "GB")
        told.row("its multiprocessors", props.multi_processor_count)
        told.row("driver", _driver())


def _version(name: str) -> str:
    """Of an installed package, by the name it is imported by."""
    if importlib.util.find_spec(name) is None:
        return "missing"
    try:
        return version({"PIL": "pillow"}.get(name, name))
    except PackageNotFoundError:
        return "there"


def _commit() -> str:
    """Of this clone; a tree that was carried without its history, or to a machine without git, has none."""
    try:
        return commit()
    except OSError:
        return "unknown"


def _driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({first_line(error)})"
    return done.stdout.strip().splitlines()[0]


def _products(told: Recorder) -> None:
    n = 8192 if told.cuda else 192
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(n, n, device=told.device, dtype=dtype) for _ in range(2))
        ms = milliseconds(lambda a=a, b=b: a @ b, told.device)  # type: ignore[misc]
        told.row(f"matrix product {n}^3, {str(dtype)[6:]}", 2 * n**3 / ms / 1e9, "TFLOP/s")


def _fp8_products(told: Recorder) -> None:
    n = 8192 if told.cuda else 192
    a, b = (torch.randn(n, n, device=told.device).to(FP8) for _ in range(2))
    rows, columns = torch.ones(n, 1, device=told.device), torch.ones(1, n, device=told.device)
    for fast in (False, True):
        def multiply(fast: bool = fast) -> object:
            return torch._scaled_mm(a, b.t(), scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16, use_fast_accum=fast)

        ms = milliseconds(multiply, told.device)
        told.row(f"matrix product {n}^3, fp8 by rows{', fast accumulation' if fast else ''}", 2 * n**3 / ms / 1e9, "TFLOP/s")


def _memory(told: Recorder) -> None:
    size = 2**31 if told.cuda else 2**24
    source = torch.empty(size, dtype=torch.uint8, device=told.device).random_(0, 255)
    target = torch.empty_like(source)
    ms = milliseconds(lambda: target.copy_(source), told.device)
    told.row("copy inside the device's memory, read and written", 2 * size / ms / 1e9, "TB/s")


def _attention(told: Recorder) -> None:
    heads, queries, keys = (40, 3072, 9216) if told.cuda else (2, 96, 288)
    q, k, v = (torch.randn(1, heads, n, 128, device=told.device, dtype=torch.bfloat16) for n in (queries, keys, keys))
    ms = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v), told.device)
    told.row(f"attention, torch's choice, {queries} x {keys}, {heads} heads", 4 * heads * queries * keys * 128 / ms / 1e9, "TFLOP/s")


def _link(told: Recorder) -> None:
    size = 2**28 if told.cuda else 2**24
    there = torch.empty(size, dtype=torch.uint8, device=told.device)
    for pinned in (False, True):
        here = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned and told.cuda)
        kind = "pinned" if pinned else "pageable"
        told.row(f"host to device, {kind}", size / milliseconds(lambda h=here: there.copy_(h), told.device, 5) / 1e6, "GB/s")  # type: ignore[misc]
        told.row(f"device to host, {kind}", size / milliseconds(lambda h=here: h.copy_(there), told.device, 5) / 1e6, "GB/s")  # type: ignore[misc]


def _launches(told: Recorder) -> None:
    """What a small operation costs the thread that asks for it; the small model's chunk is about 1500 of them."""
    x, count = torch.zeros(16, device=told.device), 200

    def many() -> None:
        for _ in range(count):
            x.add_(1)
        wait(told.device)

    told.row("a small operation, one after the other", milliseconds(many, told.device) / count * 1000, "us")
    told.row("threads of the CPU", torch.get_num_threads(), f"of {os.cpu_count()} cores")
