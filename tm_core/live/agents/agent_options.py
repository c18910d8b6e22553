"""What agents that ask a server need to know, checked before anything is loaded. Not part of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

from ...errors import InputError

INSTRUCTIONS = "You are in a spoken conversation. Answer in one to three short sentences, without lists, markup or emoji."
INSTALL = "run: pip install 'talking-machines[agents]'"


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """What is left out is the agent's own default; addresses end before the route: http://host:port/v1."""

    base_url: str | None = None
    chat_url: str | None = None
    stt_url: str | None = None
    tts_url: str | None = None
    model: str | None = None
    stt_model: str | None = None
    tts_model: str | None = None
    voice: str | None = None
    instructions: str | None = None
    key: str | None = field(default=None, repr=False)

    def check(self, agent: str, used: frozenset[str]) -> None:
        """InputError for addresses that are none, and for options that this agent would not look at."""
        for name in (f.name for f in fields(self) if f.name != "key"):
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is None:
                continue
            if name not in used:
                raise InputError(option, value, f"the agent {agent} does not use it", f"leave {option} out")
            if not value.strip():
                raise InputError(option, repr(value), "is empty", f"leave {option} out")
            if name.endswith("_url"):
                _check_address(option, value)

    def key_for(self, address: str | None) -> str:
        """The key; servers of one's own often ask for none. InputError where OpenAI's own is meant."""
        if self.key:
            return self.key
        if address is None:
            raise InputError(
                "OPENAI_API_KEY", "not set", "OpenAI's servers need a key", "set it, or name a server of your own with --base-url")
        return "none"


def _check_address(option: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise InputError(option, value, "is no address of a server", "use http://host:port/v1 or https://host/v1")
