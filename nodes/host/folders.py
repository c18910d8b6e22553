"""The host's folders: models, input, output and temporary files. Names in graphs may come from anyone: `paths` keeps them inside."""

from __future__ import annotations

import os
from contextlib import suppress
from glob import escape
from pathlib import Path

import folder_paths

from ...tm_core.errors import InputError
from ...tm_core.outputs import PART, check_output
from .paths import below, usable

MODEL_FOLDER, DIFFUSION_MODELS, MODEL_PATCHES = "talking_machines", "diffusion_models", "model_patches"


def register_model_folder() -> None:
    """Make models/talking_machines known, and models/model_patches to older hosts; entries of extra_model_paths.yaml stay."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER), is_default=True)
    if MODEL_PATCHES not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(MODEL_PATCHES, str(Path(folder_paths.models_dir) / MODEL_PATCHES))


def files_of(folder: str) -> list[str]:
    """Files the user put into a model folder: .safetensors only, never a pickle (our folder's own filter lets everything pass)."""
    return sorted(name for name in folder_paths.get_filename_list(folder) if name.endswith(".safetensors"))


def path_of(folder: str, name: str, field: str, otherwise: str = "") -> Path:
    """Path of a file in a model folder; InputError when it went away."""
    path = folder_paths.get_full_path(folder, name) if name in files_of(folder) else None
    if path is None:
        raise InputError(field, name, f"not found in models/{folder}", f"put the file there and reload the page{otherwise}")
    return Path(path)


def fingerprint(*files: tuple[str, str]) -> str:
    """Changes when one of these files (folder, name) does."""
    paths = [folder_paths.get_full_path(folder, name) for folder, name in files]
    return " ".join(f"{os.stat(p).st_mtime_ns} {os.stat(p).st_size}" if p else "missing" for p in paths)


def model_files() -> list[str]:
    """Our own models."""
    return files_of(MODEL_FOLDER)


def weights_named(name: str) -> Path:
    """Path of one of our own models; InputError when it went away."""
    return path_of(MODEL_FOLDER, name, "weights", ", or choose the bundled model")


def temp_folder() -> Path:
    """The host's folder for files that do not outlive it."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def input_file(name: str, field: str) -> Path:
    """A file in the host's input folder; InputError when it is not there, or elsewhere."""
    path = input_path(name, field)
    if not path.is_file():
        raise InputError(field, name, "is no file in the input folder", "put it there, or paste its text")
    return path


def output_file(prefix: str, suffix: str, width: int, height: int) -> tuple[Path, str]:
    """The next free file of this prefix in the output folder, and its subfolder; InputError where none can be made."""
    usable(prefix, "filename_prefix")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    except OSError as error:
        raise InputError("filename_prefix", prefix, f"cannot be written ({error.strerror})", "free or unlock the output folder") from error
    except Exception as error:  # the host raises a bare Exception for this
        raise InputError("filename_prefix", prefix, "points outside the output folder", "use a name like video/talking") from error
    _remove_unfinished(Path(folder), name, suffix)
    return Path(folder) / f"{name}_{counter:05}_{suffix}", subfolder


def _remove_unfinished(folder: Path, name: str, suffix: str) -> None:
    """Remove what a killed host left of this name: the host counts past it, so that no later job would take it over."""
    for part in folder.glob(f"{escape(name)}_*_{suffix}{PART}"):
        with suppress(InputError):  # another job is writing it
            check_output(part.with_name(part.name.removesuffix(PART)))


def input_path(name: str, field: str) -> Path:
    """A file or folder of the input folder; InputError for one elsewhere (a graph may come from anyone). Links in it are the user's."""
    return below(folder_paths.get_input_directory(), name, field, "the input folder", "put the files, or a link to them, there")


def output_folder(name: str, field: str) -> Path:
    """A folder of the output folder, there or not; InputError for one elsewhere, and for the output folder itself."""
    path = below(folder_paths.get_output_directory(), name, field, "the output folder", "use a name like batch/talking")
    if path == Path(os.path.abspath(folder_paths.get_output_directory())):
        raise InputError(field, name or "nothing", "a folder of its own is needed", "use a name like batch/talking")
    return path
