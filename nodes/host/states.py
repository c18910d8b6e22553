"""Samplers' states (on a GPU gigabytes of keys) among what lies on the host's device: they go when the host asks for memory.

The host keeps a list of models on its device and takes entries out of it (`free_memory`) when another model needs the room, when
the user frees memory and when all models are unloaded. `entry` is one of that list, a model without weights; where the host takes
it out, ModelPatcher's ON_DETACH is called and the states are given back. It goes in together with the weights of a stream.
Not the right hooks: ON_CLEANUP, which ends a run of the host's own sampler and is never called for a stream; the end of a prompt,
at which the host calls nothing of a node's. There, a stream that ran to its end or was stopped has given its state back itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP

from ...tm_core.streaming.handles import LatentStream

log = logging.getLogger(__name__)

_streams: WeakSet[LatentStream] = WeakSet()


class TalkingStreams(torch.nn.Module):
    """The host names an entry of its list after the class of the model in it."""


@lru_cache(maxsize=1)
def entry() -> Any:
    """The entry, loaded before a stream runs."""
    management = comfy.model_management
    made = comfy.model_patcher.ModelPatcher(TalkingStreams(), management.get_torch_device(), management.unet_offload_device(), size=1)
    made.add_callback(CallbacksMP.ON_DETACH, _taken_out)
    return made


def watch(streams: Iterable[LatentStream]) -> None:
    """Let these streams give their states back when the host asks; they are not kept alive."""
    _streams.update(streams)


def _taken_out(_: Any, unpatch_all: bool) -> None:
    """`unpatch_all` is False where the host only replaces the entry by itself."""
    if unpatch_all:
        give_back()


def give_back() -> None:
    """Every state that a stream of this process holds; what is sampled stays."""
    streams = list(_streams)
    held = [stream for stream in streams if stream.holds_state]
    for stream in held:
        stream.release_state()
    left = sum(stream.holds_state for stream in streams)
    log.info("memory asked for: %d of %d streams held a sampler's state, %d do now", len(held), len(streams), left)
