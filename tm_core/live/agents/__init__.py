"""Who answers, by name. One file an agent; packages and servers that one needs are asked for when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import InputError
from .agent import MICROPHONE_RATE, Agent, AgentOutput
from .agent_options import AgentOptions
from .offline_voice import OfflineVoice
from .openai_realtime import realtime_agents
from .parrot import ParrotAgent
from .reader import ReaderAgent
from .speech_pipeline import pipeline_agents

__all__ = ["AGENTS", "MICROPHONE_RATE", "Agent", "AgentOptions", "AgentOutput", "ParrotAgent", "ReaderAgent", "agent_named"]

MakeAgent = Callable[[AgentOutput], Agent]


@dataclass(frozen=True, kw_only=True)
class AgentKind:
    """How an agent is made from its options, and which of them it looks at."""

    make: Callable[[AgentOptions], MakeAgent]
    used: frozenset[str] = frozenset()


def _readers(_: AgentOptions) -> MakeAgent:
    voice = OfflineVoice()
    return lambda output: ReaderAgent(output, voice)


AGENTS: dict[str, AgentKind] = {
    "parrot": AgentKind(make=lambda _: ParrotAgent),
    "reader": AgentKind(make=_readers),
    "openai-realtime": AgentKind(
        make=realtime_agents, used=frozenset({"base_url", "model", "stt_model", "voice", "instructions"})),
    "pipeline": AgentKind(
        make=pipeline_agents, used=frozenset(
            {"base_url", "chat_url", "stt_url", "tts_url", "model", "stt_model", "tts_model", "voice", "instructions"})),
}


def agent_named(name: str, options: AgentOptions | None = None) -> MakeAgent:
    """What makes one agent a conversation; InputError for a name nobody has, and for what this agent lacks or does not use."""
    if name not in AGENTS:
        raise InputError("agent", name, "no such agent", f"choose one of {', '.join(AGENTS)}")
    kind, options = AGENTS[name], options or AgentOptions()
    options.check(name, kind.used)
    return kind.make(options)
