"""`talking-machines serve`: what the command is given becomes a server that runs until Ctrl-C."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

BUNDLED = ("demo", "second", "third", "fourth")
PORTRAITS = Path(__file__).parents[1] / "assets" / "portraits"


@dataclass(frozen=True, kw_only=True)
class ServeJob:
    """The options of the command."""

    images: tuple[Path, ...]
    agent: str
    agent_options: dict[str, str | None]
    port: int
    host: str
    token: str | None
    size: int
    sessions: int
    idle_s: float
    ice: tuple[str, ...]
    weights: Path | None
    device: str


def run_server(job: ServeJob) -> None:
    """Serve until Ctrl-C; InputError for options that do not fit, and without the extra."""
    try:
        from ..live.agents import AgentOptions, agent_named
        from ..live.avatar import AvatarOptions
        from ..live.server import LiveServer, ServeOptions, serve
    except ModuleNotFoundError as error:
        raise InputError(
            "serve", f"{error.name}", "is not installed", "run: pip install 'talking-machines[live]'") from error
    if not 64 <= job.size <= 1024:
        raise InputError("--size", job.size, "64 to 1024 pixels", "use 384")
    options = ServeOptions(
        host=job.host, port=job.port, token=job.token, most_sessions=job.sessions, idle_s=job.idle_s, ice=job.ice)
    options.check()
    agent = agent_named(job.agent, AgentOptions(**job.agent_options, key=os.environ.get("OPENAI_API_KEY")))
    portraits = {p.stem: p for p in job.images} or {name: PORTRAITS / f"{name}.jpg" for name in BUNDLED}
    for path in portraits.values():
        if not path.is_file():
            raise InputError("--image", path, "no such file", "check the path")
    from ..talk.stream import parse_device
    from ..weights.loading import load_model

    model = load_model(job.weights, device=parse_device("--device", job.device))
    server = LiveServer(model, portraits, agent, options=options, avatar=AvatarOptions(size=job.size))
    sys.stderr.write(f"open http://{job.host}:{job.port}{'/?token=...' if job.token else '/'} in a browser; Ctrl-C ends\n")
    serve(server)
