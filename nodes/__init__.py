"""The ComfyUI surface of the pack: thin nodes, each one call into `tm_core`.

Non-goals: the work itself (tm_core), all that knows the host (host/). Imported only by ComfyUI, through the
entry point of the pack.
"""

from __future__ import annotations

from . import wires
from .batch import BatchLipsync
from .faces import DetectFaces, FaceMasks
from .host import folders, rooms
from .host.schemas import ComfyExtension
from .live import LiveConversation
from .model import LoadModel
from .open_model import ApplySpeech, LoadOpenModel, TalkingModelFromModel
from .scenes import Canvas, Character, Layer, PasteBack, SceneStream
from .score import ScoreVideo
from .sinks import CollectFrames, PreviewStream, SaveStream
from .stream import CausalSampler, DecodeStream
from .subject import FaceMask
from .turns import Conversation, SchedulePicture, SpeakingTimeline
from .voice import AudioEncoder, SpeakingSilence

NODES: list[type] = [
    LoadModel, LoadOpenModel, TalkingModelFromModel, AudioEncoder, FaceMask, DetectFaces, FaceMasks, SpeakingSilence, SpeakingTimeline,
    Conversation, SchedulePicture, CausalSampler, ApplySpeech, DecodeStream, PasteBack, Character, SceneStream, Layer, Canvas,
    PreviewStream, SaveStream, CollectFrames, ScoreVideo, BatchLipsync, LiveConversation,
]
for _node in NODES:
    wires.guard(_node)


class TalkingMachinesExtension(ComfyExtension):
    """What ComfyUI asks for the nodes of this pack."""

    async def get_node_list(self) -> list[type]:
        """Every node class."""
        return NODES


async def comfy_entrypoint() -> TalkingMachinesExtension:
    """Register the model folder (hosts before 0.9 never call `on_load`) and the rooms' route, and hand over the extension."""
    folders.register_model_folder()
    rooms.register_routes()
    return TalkingMachinesExtension()
