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

from ..tm_core import talk
from ..tm_core.compose.assembly import Layers as CanvasLayers
from ..tm_core.compose.canvas import ComposedStream
from ..tm_core.errors import InputError
from ..tm_core.face.found import Faces as PictureFaces
from ..tm_core.streaming.handles import DecodedStream
from ..tm_core.streaming.handles import LatentStream as Latents
from ..tm_core.weights.loading import TalkingModel
from .host.schemas import io

Model = io.Custom("TM_MODEL")  # tm_core.weights.loading.TalkingModel
AudioWindows = io.Custom("TM_AUDIO_WINDOWS")  # tm_core.talk.AudioWindows
Speaker = io.Custom("TM_SPEAKER")  # tm_core.talk.Speaker
Portrait = io.Custom("TM_PORTRAIT")  # tm_core.talk.Portrait
LatentStream = io.Custom("TM_LATENT_STREAM")  # tm_core.streaming.handles.LatentStream
FrameStream = io.Custom("TM_FRAME_STREAM")  # tm_core.compose.canvas.FrameStream: a DecodedStream, or several composed
Cast = io.Custom("TM_CAST")  # tm_core.talk.Cast
Layers = io.Custom("TM_LAYERS")  # tm_core.compose.assembly.Layers
Faces = io.Custom("TM_FACES")  # tm_core.face.found.Faces
Boxes = io.Custom("BBOX")  # other packs' boxes

KINDS: dict[str, tuple[type, ...]] = {
    "TM_MODEL": (TalkingModel,), "TM_AUDIO_WINDOWS": (talk.AudioWindows,), "TM_SPEAKER": (talk.Speaker,), "TM_PORTRAIT": (talk.Portrait,),
    "TM_LATENT_STREAM": (Latents,), "TM_FRAME_STREAM": (DecodedStream, ComposedStream), "TM_CAST": (talk.Cast,),
    "TM_LAYERS": (CanvasLayers,), "TM_FACES": (PictureFaces,), "IMAGE": (Tensor,), "MASK": (Tensor,),
    "AUDIO": (Mapping, NoneType)}  # no sound: the node says so
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
