"""What a node hands back: videos and pictures that the browser shows, files as the host's VIDEO, the graph inside of what is saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import av
import folder_paths
import numpy as np
from comfy.cli_args import args
from PIL import Image

from .folders import temp_folder
from .schemas import InputImpl

LEAST_CUT_S = 0.01


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
    if args.disable_metadata or hidden is None:
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
