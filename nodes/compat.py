"""The one place that knows ComfyUI: which API module, which keyword exists since when, how to report and to stop.

Covers 0.3.75 and later. Non-goals: what a node does; conversions of pictures and sound (pictures, sound).
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import av
import comfy.model_management
import comfy.ops
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args as host_args
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image

try:  # the pinned API is what the maintainers advise; `latest` changes with the host
    from comfy_api.v0_0_2 import ComfyExtension, InputImpl, io
except ImportError:
    from comfy_api.latest import ComfyExtension, InputImpl, io

from ..tm_core.errors import InputError
from ..tm_core.outputs import PART, check_output
from .paths import below, usable

__all__ = [
    "ComfyExtension", "Interrupted", "Progress", "check_interrupt", "chosen", "device_named", "devices", "field", "file_of", "files_of",
    "fingerprint", "free_memory", "graph_metadata", "input_file", "input_path", "io", "model_files", "nothing", "operations",
    "output_file", "output_folder", "path_of", "register_model_folder", "room_on", "saved_video", "schema", "shown_picture", "tell",
    "temp_folder", "video_of", "weights_named",
]

log = logging.getLogger(__name__)

CATEGORY = "TalkingMachines"
MODEL_FOLDER, DIFFUSION_MODELS, MODEL_PATCHES = "talking_machines", "diffusion_models", "model_patches"
AUTO = "auto"
LEAST_CUT_S = 0.01


# ---- schemas


def _accepted(call: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those keywords that this host's version of `call` knows; newer ones are comfort, not function."""
    parameters = inspect.signature(call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def schema(**keywords: Any) -> Any:
    """io.Schema of this pack's category, without what the host does not know yet."""
    return io.Schema(**_accepted(io.Schema, {"category": CATEGORY, **keywords}))


def field(kind: Any, name: str, **keywords: Any) -> Any:
    """Input `name` of an io type, without what the host does not know yet (`advanced`)."""
    return kind.Input(name, **_accepted(kind.Input, keywords))


def chosen(name: str, value: str, options: Iterable[str]) -> str:
    """`value`, if it is offered; 0.3.75 does not check the lists of V3 nodes, so graphs from scripts come unchecked."""
    offered = list(options)
    if value not in offered:
        raise InputError(name, value, "is not offered here", f"choose one of {', '.join(offered)}")
    return value


# ---- files


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


def saved_video(path: Path, subfolder: str) -> dict[str, Any]:
    """UI result that shows a file of the output folder as a video and names it in the history."""
    return {"images": [{"filename": path.name, "subfolder": subfolder, "type": "output"}], "animated": (True,)}


def shown_picture(frame: np.ndarray) -> dict[str, Any]:
    """UI result that shows one frame (H, W, 3) uint8 from the temporary folder."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path("tm_preview", str(temp_folder()))
    file = f"{name}_{counter:05}_.png"
    Image.fromarray(frame).save(os.path.join(folder, file), compress_level=1)
    return {"images": [{"filename": file, "subfolder": subfolder, "type": "temp"}]}


def graph_metadata(hidden: Any) -> dict[str, str]:
    """The graph, as the host writes it into what it saves, so that a file dropped on the canvas opens it again."""
    if host_args.disable_metadata or hidden is None:
        return {}
    known = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in known.items() if value is not None}


def video_of(path: Path) -> Any:
    """A file as the host's VIDEO: only the path travels."""
    return InputImpl.VideoFromFile(str(path))


def file_of(video: Any) -> Path | None:
    """The file that a VIDEO is, whole; None for one in memory, and for a part of a file (hosts that can cut one)."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return None
    source = video.get_stream_source()
    if not isinstance(source, str):
        return None
    with av.open(source) as container:
        whole = None if container.duration is None else container.duration / av.time_base
    return Path(source) if whole is not None and abs(whole - video.get_duration()) < LEAST_CUT_S else None


# ---- machine


def devices() -> list[str]:
    """What a device widget offers: auto, the CPU and whatever the host may use besides."""
    own = comfy.model_management.get_torch_device()
    others = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if own.type == "cuda" else [str(own)]
    return list(dict.fromkeys([AUTO, "cpu", *others]))


def device_named(name: str) -> torch.device:
    """A device of the list; auto is the one the host computes on (so `--cpu` is respected)."""
    chosen("device", name, devices())
    return comfy.model_management.get_torch_device() if name == AUTO else torch.device(name)


def operations() -> Any:
    """The host's layers, for what we build: its casting, offloading and fp8 know no others."""
    return comfy.ops.disable_weight_init


def room_on(device: torch.device) -> int:
    """Bytes a stream may take on a device: weights can be put out of a GPU, out of main memory they cannot."""
    management = comfy.model_management
    if device.type == "cpu":
        return int(management.get_free_memory(device))
    return int(management.get_total_memory(device) - management.extra_reserved_memory())


def free_memory() -> int:
    """Bytes of main memory that can be had now."""
    return int(comfy.model_management.get_free_memory(torch.device("cpu")))


# ---- while a node runs


Interrupted: type[BaseException] = comfy.model_management.InterruptProcessingException  # its layers raise it too, in any thread


def check_interrupt() -> None:
    """Raise if the user stopped the job. It clears the host's flag: call it on the executing thread only."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def tell(node_id: str | None, text: str) -> None:
    """A line in the log and, where the host can, under the node."""
    log.info("%s", text)
    from server import PromptServer  # the server imports the nodes: not while it is loading them

    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None and node_id is not None:
        send(text, node_id)


def nothing(reason: str) -> Any:
    """An output that holds nothing: a node that is connected to it does not run and shows this reason; the others run."""
    return ExecutionBlocker(reason)


class Progress:
    """Progress of the running node in frames, with pictures."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)
        self._done = 0

    def advance(self, frames: int, picture: np.ndarray | None = None) -> None:
        """`frames` more are done; `picture` (H, W, 3) uint8 is shown. Raises the host's interrupt."""
        self._done += frames
        self._bar.update_absolute(self._done, preview=None if picture is None else _preview(picture))
        check_interrupt()  # hosts from 0.9.2 throttle updates and skip the check with them


def _preview(picture: np.ndarray) -> tuple[str, Image.Image, int | None]:
    """What the host sends to the browser: it scales to the size given, up as well, so small ones give none."""
    limit = int(getattr(host_args, "preview_size", 512))
    return "JPEG", Image.fromarray(picture), limit if max(picture.shape[:2]) > limit else None
