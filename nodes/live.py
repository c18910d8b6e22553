"""TM_LiveConversation: a person talks to the portrait in the browser for as long as the node runs."""

from __future__ import annotations

import time
from typing import Any

from ..tm_core import talk
from ..tm_core.errors import InputError
from ..tm_core.model.talking import WeightNeeds, load_weights
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import rooms, running
from .host.schemas import chosen, field, io, schema

AGENTS = ("parrot",)
NAP_S = 0.05


class LiveConversation(io.ComfyNode):
    """Opens a page in which the portrait listens and answers."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_LiveConversation."""
        return schema(
            node_id="TM_LiveConversation",
            display_name="Live Conversation",
            description="Talk to the portrait: while the node runs it shows an address to open in a browser with a microphone. Stop it as "
            "any other job. Needs the packages of `pip install aiortc`.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                field(wires.Model, "model", tooltip="The model that draws: one of faces that streams, as the bundled one."),
                field(wires.Portrait, "portrait", tooltip="Who is talked to."),
                field(io.Combo, "agent", options=list(AGENTS), default=AGENTS[0], tooltip="Who answers. parrot: says back what you said."),
                field(
                    io.Int, "size", default=384, min=64, max=1024,
                    tooltip="Pixels of the video's longer side: smaller is smoother on slow machines."),
                field(
                    io.Float, "minutes", default=0.0, min=0.0, max=1440.0, step=0.5,
                    tooltip="Ends after so long. 0: when nobody has spoken for ten minutes, or you stop it."),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model: TalkingModel, portrait: talk.Portrait, agent: str, size: int, minutes: float) -> Any:
        """Serve until the time is over, the room is idle or the user stops it."""
        try:
            from ..tm_core.live.agents import agent_named
            from ..tm_core.live.avatar import AvatarOptions, LiveAvatar
            from ..tm_core.live.server import LiveServer, ServeOptions
        except ModuleNotFoundError as error:
            raise InputError("Live Conversation", f"{error.name}", "is not installed", "run: pip install aiortc") from error
        options = AvatarOptions(size=size)
        LiveAvatar(model, portrait, options)  # refuses now what a session would refuse
        load_weights([WeightNeeds(model=model, autoencoder=model.vae)])
        server = LiveServer(
            model, {"portrait": portrait}, agent_named(chosen("agent", agent, AGENTS)), avatar=options, options=ServeOptions())
        ends = time.monotonic() + 60 * minutes if minutes else None
        with rooms.room(server) as address:
            running.tell(cls.hidden.unique_id, f"open {address} in a browser and talk")
            busy = time.monotonic()
            while ends is None or time.monotonic() < ends:
                running.check_interrupt()
                if isinstance(server.error, running.Interrupted):  # the host's layers look for it too, and only one of us sees it
                    raise server.error
                if server.sessions:
                    busy = time.monotonic()
                elif ends is None and time.monotonic() - busy > server.options.idle_s:
                    break
                time.sleep(NAP_S)
        return io.NodeOutput()
