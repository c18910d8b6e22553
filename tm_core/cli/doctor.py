"""`talking-machines doctor`: what is installed, what works, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..inputs import check_folder
from .argument_checks import check_weights

if TYPE_CHECKING:
    from ..weights.inventory import Found, Readiness

REQUIRED = ("torch", "numpy", "safetensors", "librosa", "einops", "av", "PIL", "scipy")
EXTRAS = {
    "typer": ("cli", "the command line"),
    "rich": ("cli", "progress bars"),
    "pocketsphinx": ("score", "`score` and `bench sync`"),
    "ray": ("batch", "batches on several machines"),
}
DISTRIBUTION = {"PIL": "pillow"}
ENCODERS = ("libx264", "aac")
ENOUGH_DISK_GB = 1.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; `optional` ones do not stop the main job."""

    what: str
    found: str
    ok: bool
    optional: bool = False
    remedy: str = ""
    word: str = "absent"  # for an optional one that is not ok

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        mark = "ok     " if self.ok else f"{self.word:7}" if self.optional else "MISSING"
        return f"{mark} {self.what}: {self.found}" + (f"; {self.remedy}" if self.remedy and not self.ok else "")


def examine(weights: Path | None = None, models: Sequence[Path] = ()) -> list[Check]:
    """Every finding, the ones the main job needs first; `models`: ComfyUI models folders to look for open checkpoints in.

    Of names that are given and wrong nothing but that, at once.
    """
    missing = list(_named(weights, models))
    return missing or [*_system(), *_packages(), *_codecs(), *_devices(), *_models(weights), *_extras(), *_open_checkpoints(models)]


def _named(weights: Path | None, models: Sequence[Path]) -> Iterator[Check]:
    """What is given and not there."""
    checks: list[tuple[str, Callable[[], object]]] = [("weights", partial(check_weights, weights))]
    checks += [("models", partial(check_folder, "--models", folder, "name a ComfyUI models folder")) for folder in models]
    for what, check in checks:
        try:
            check()
        except InputError as error:
            yield Check(what=what, found=str(error), ok=False)


def _system() -> Iterator[Check]:
    yield Check(what="python", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}", ok=True)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Check(
        what="disk", found=f"{free:.1f} GB free here, {os.cpu_count()} CPU cores", ok=free >= ENOUGH_DISK_GB, optional=True,
        remedy="free some space")


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _packages() -> Iterator[Check]:
    for name in REQUIRED:
        present = importlib.util.find_spec(name) is not None
        yield Check(
            what=name, found=_version(name) if present else "not installed", ok=present,
            remedy=f"pip install {DISTRIBUTION.get(name, name)}")


def _extras() -> Iterator[Check]:
    for name, (extra, purpose) in EXTRAS.items():
        present = importlib.util.find_spec(name) is not None
        yield Check(
            what=name, found=_version(name) if present else f"not installed (for {purpose})", ok=present, optional=True,
            remedy=f"pip install 'talking-machines[{extra}]'")


def _codecs() -> Iterator[Check]:
    import av

    for name in ENCODERS:
        present = name in av.codecs_available
        yield Check(
            what=f"encoder {name}", found="usable" if present else "absent from PyAV's ffmpeg", ok=present,
            remedy="pip install --force-reinstall --only-binary av av")


def _devices() -> Iterator[Check]:
    import torch

    yield Check(what="device cpu", found=f"{torch.get_num_threads()} threads", ok=True)
    if not torch.cuda.is_available():
        yield Check(
            what="device cuda", found="none", ok=False, optional=True, remedy="the CPU does; for a GPU install a CUDA build of torch")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield Check(what=f"device cuda:{i}", found=f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB", ok=True)


def _models(weights: Path | None) -> Iterator[Check]:
    import torch

    from ..talk.portrait import face_mesh
    from ..weights.loading import default_weights, load_model

    try:
        model = load_model(weights, device="cpu", dtype=torch.float32)
        found = f"{model.config.name}, {model.config.width}x{model.config.height} at {model.config.fps} fps"
        yield Check(what="weights", found=f"{found} ({weights or default_weights()})", ok=True)
    except InputError as error:
        yield Check(what="weights", found=str(error), ok=False)
    try:
        face_mesh()
        yield Check(what="face models", found="usable", ok=True)
    except (InputError, OSError) as error:
        yield Check(what="face models", found=str(error), ok=False, remedy="reinstall the package")


def _open_checkpoints(named: Sequence[Path]) -> Iterator[Check]:
    """Files in the models folders, then what each family still needs."""
    from ..weights.inventory import HOME, default_folders, readiness, search

    folders = list(named) or default_folders(ROOT)
    found: list[Found] = []
    if not folders:
        yield Check(
            what="open checkpoints", found="no ComfyUI models folder to search", ok=False, optional=True,
            remedy=f"name one with --models, or set {HOME}")
        return
    for folder in folders:
        try:
            files = list(search(folder))
        except InputError as error:
            yield Check(what="models", found=str(error), ok=False, optional=not named)
            continue
        yield Check(what="models", found=f"{len(files)} files in {folder}", ok=True)
        yield from map(_file, files)
        found += files
    yield from map(_family, readiness(found))


def _file(file: Found) -> Check:
    useless = file.kind is None
    return Check(
        what=f"{file.folder}/{file.path.name}", found=file.line(), ok=not useless and not file.misplaced, optional=True,
        word="no use" if useless else "move")


def _family(answer: Readiness) -> Check:
    parts = [f"complete: {', '.join(answer.have)}" if answer.ok else f"found {', '.join(answer.have) or 'nothing of it'}"]
    parts += [f"needs {missing}" for missing in answer.missing]
    parts += answer.notes if answer.have else ()
    return Check(
        what=f"family {answer.family.title}", found="; ".join(parts), ok=answer.ok, optional=True,
        word="partly" if answer.have else "absent")
