"""Conversations under the host's own server: each is a room at an address that nobody can guess, and gone with the node that opened it.

The host fixes its routes before it serves, so one route stands for all rooms; without a room it knows nothing. What is answered in a
room is tm_core.live.server's affair.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...tm_core.live.server import LiveServer

ADDRESS = "/talking_machines/live"
CLOSING_S = 10.0
EVERYWHERE = ("0.0.0.0", "::", "")  # addresses that a server listens on and nobody can open

_rooms: dict[str, LiveServer] = {}


def register_routes() -> None:
    """Once, while the host loads its nodes; nothing where there is no server (a host's own tests)."""
    from aiohttp import web
    from server import PromptServer

    routes = getattr(getattr(PromptServer, "instance", None), "routes", None)
    if routes is None:
        return

    async def answer(request: web.Request) -> web.StreamResponse:
        room = _rooms.get(request.match_info["room"])
        if room is None:
            return web.json_response({"error": "room: not open; run the graph and open the address that the node shows"}, status=404)
        return await room.handle(request, request.match_info["path"])

    for method in (routes.get, routes.post):
        method(ADDRESS + "/{room}/{path:.*}")(answer)


@contextmanager
def room(server: LiveServer) -> Iterator[str]:
    """Open for as long as the context lasts, from the thread that executes nodes; gives the address to open in a browser."""
    from server import PromptServer

    host: Any = PromptServer.instance
    key = secrets.token_urlsafe(18)
    _rooms[key] = server
    try:
        name = getattr(host, "address", "127.0.0.1")
        shown = "127.0.0.1" if name in EVERYWHERE else f"[{name}]" if ":" in name else name
        yield f"http://{shown}:{getattr(host, 'port', 8188)}{ADDRESS}/{key}/"
    finally:
        del _rooms[key]
        asyncio.run_coroutine_threadsafe(server.close(), host.loop).result(CLOSING_S)
