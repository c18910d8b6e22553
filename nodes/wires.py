"""The types of this pack that travel between nodes; everything else on a wire is the host's own type.

A graph from a script may hold a number or a text where a wire belongs, and the host hands it over: `guard` refuses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import wraps
from types import NoneType
from typing import Any

from torch import Tensor

from ..tm_core import app
from ..tm_core.errors import InputError
from ..tm_core.face.found import FoundFaces
from ..tm_core.streaming.compose import ComposedStream
from ..tm_core.streaming.handles import FrameStream as Stream
from ..tm_core.streaming.handles import LatentStream as Latents
from ..tm_core.weights.loading import TalkingModel
from .host.schemas import io

Model = io.Custom("TM_MODEL")  # tm_core.weights.loading.TalkingModel
AudioWindows = io.Custom("TM_AUDIO_WINDOWS")  # tm_core.app.Voice
Speaker = io.Custom("TM_SPEAKER")  # tm_core.app.Speech
Portrait = io.Custom("TM_PORTRAIT")  # tm_core.app.Subject
LatentStream = io.Custom("TM_LATENT_STREAM")  # tm_core.streaming.handles.LatentStream
FrameStream = io.Custom("TM_FRAME_STREAM")  # tm_core.streaming.compose.Frames: a FrameStream, or several composed
Cast = io.Custom("TM_CAST")  # tuple of tm_core.scenes.Character
Layers = io.Custom("TM_LAYERS")  # tuple of tm_core.scenes.Placement
Faces = io.Custom("TM_FACES")  # tm_core.face.found.FoundFaces
Boxes = io.Custom("BBOX")  # other packs' boxes

KINDS: dict[str, tuple[type, ...]] = {
    "TM_MODEL": (TalkingModel,), "TM_AUDIO_WINDOWS": (app.Voice,), "TM_SPEAKER": (app.Speech,), "TM_PORTRAIT": (app.Subject,),
    "TM_LATENT_STREAM": (Latents,), "TM_FRAME_STREAM": (Stream, ComposedStream), "TM_CAST": (tuple,), "TM_LAYERS": (tuple,),
    "TM_FACES": (FoundFaces,), "IMAGE": (Tensor,), "MASK": (Tensor,), "AUDIO": (Mapping, NoneType)}  # no sound: the node says so
OBJECTS = {"MODEL", "VAE", "VIDEO", "AUDIO_ENCODER", "CLIP_VISION_OUTPUT"}  # the host's, whose classes other packs extend
PLAIN = (str, int, float, list, dict, NoneType)


def guard(node: Any) -> None:
    """Let a node's inputs be checked before it runs; InputError for what is not of its wire's type."""
    run = node.execute.__func__
    absent = {name for name, p in inspect.signature(run).parameters.items() if p.default is None}
    wired: dict[str, str] = {}

    @wraps(run)
    def execute(cls: Any, *args: Any, **given: Any) -> Any:
        if not wired:
            wired.update({i.id: i.get_io_type() for i in node.define_schema().inputs})
        for name, value in given.items():
            check(name, wired.get(name, ""), value, absent)
        return run(cls, *args, **given)

    node.execute = classmethod(execute)


def check(name: str, kinds: str, value: Any, absent: Collection[str]) -> None:
    """InputError unless `value` is of a wire's type (one, or several with commas); an optional one may be absent."""
    known = [kind for kind in kinds.split(",") if kind in KINDS or kind in OBJECTS]
    if not known or (value is None and name in absent):
        return
    if not any(isinstance(value, KINDS[kind]) if kind in KINDS else not isinstance(value, PLAIN) for kind in known):
        raise InputError(name, f"a {type(value).__name__}", f"is no {kinds}", "connect the output of a node")
