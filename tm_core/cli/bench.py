"""`talking-machines bench`: runs a script of benchmarks/ and adds machine and commit to its figures.

A benchmark is a module with `run(...) -> list[dict]`, each with what, value, unit, bar and ok. Non-goals:
measuring (benchmarks/).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ..errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


def available() -> dict[str, str]:
    """Name and purpose (first line of its docstring) of every benchmark."""
    names = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
    return {name: _purpose(FOLDER / f"{name}.py") for name in names}


def _purpose(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.splitlines()[0] if doc else ""


def run_bench(name: str, **options: Any) -> dict[str, Any]:
    """The figures of one benchmark; what it prints meanwhile goes to stderr. InputError for an unknown name."""
    known = available()
    if name not in known:
        raise InputError(
            "bench", name, f"no such benchmark, known are {', '.join(known) or 'none'}",
            "choose one of them" if known else "run from a clone of the repository, benchmarks/ is not installed")
    run = _load(name)
    accepted = inspect.signature(run).parameters
    given = {k: v for k, v in options.items() if v is not None}
    chosen = {k: v for k, v in given.items() if k in accepted}
    for key in given.keys() - chosen.keys() - {"device"}:
        raise InputError(f"--{key}", given[key], f"bench {name} has no such option", "leave it out")
    with redirect_stdout(sys.stderr):
        results = run(**chosen)
        for r in results:
            sys.stderr.write(result_line(r) + "\n")
    return {"bench": name, "machine": machine(), "commit": commit(), "results": results}


def result_line(result: dict[str, Any]) -> str:
    """One figure for people."""
    mark = {True: "ok  ", False: "MISS", None: "    "}[result["ok"]]
    bar = f"   (bar {result['bar']})" if result["bar"] is not None else ""
    return f"{mark} {result['what']}: {result['value']} {result['unit']}{bar}"


def _load(name: str) -> Callable[..., list[dict[str, Any]]]:
    with _importable(ROOT):
        spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    run: Callable[..., list[dict[str, Any]]] = module.run
    return run


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def machine() -> str:
    """This machine in a line: processor, cores, memory, GPUs, torch."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    gpus = "".join(f", {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB{gpus}, torch {torch.__version__}"


def commit() -> str:
    """The commit of this clone, with -dirty for changes on top; unknown outside a clone."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
