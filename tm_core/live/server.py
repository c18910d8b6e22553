"""`talking-machines serve`: a page, its signalling, health and figures. Paper section 5 (the video server).

Bound to this machine unless a host is named, which then needs a token. Sessions share the model's weights and nothing else. Non-goals:
what happens in a session (session), HTTPS (a proxy's).
"""

from __future__ import annotations

import asyncio
import gc
import hmac
import io
import logging
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCIceServer
from PIL import Image

from ..errors import InputError
from ..media.image_io import open_image
from ..model.talking import TalkingModel
from ..talk.portrait import Portrait, prepare_portrait
from .agents import Agent, AgentOutput
from .avatar import AvatarOptions, LiveAvatar
from .session import LiveSession

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("live.js", "style.css")
LARGEST_UPLOAD = 12 * 2**20
MOST_UPLOADS = 16
LARGEST_OFFER = 256 * 2**10
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where the server listens and whom it lets in; `ice`: addresses of STUN and TURN servers."""

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    most_sessions: int = 1
    idle_s: float = 600.0
    ice: tuple[str, ...] = ()

    def check(self) -> None:
        """InputError for a server that anybody could reach without a token."""
        if self.host not in LOOPBACK and not self.token:
            raise InputError("host", self.host, "others could reach the server: it needs a token then", "give --token, or leave out --host")
        if self.most_sessions < 1:
            raise InputError("sessions", self.most_sessions, "at least one", "use 1")
        for address in self.ice:
            _ice_server(address)


class LiveServer:
    """The web application and its sessions."""

    def __init__(
        self, model: TalkingModel, portraits: Mapping[str, Path | Portrait], agent: Callable[[AgentOutput], Agent], *,
        options: ServeOptions | None = None, avatar: AvatarOptions | None = None,
    ) -> None:
        """`portraits` by the names they are shown under; files are read when they are asked for."""
        self.options, self._avatar = options or ServeOptions(), avatar or AvatarOptions()
        self.options.check()
        self._model, self._known, self._agent = model, portraits, agent
        self._portraits: dict[str, Portrait] = {}
        self._uploads: dict[str, Portrait] = {}
        self.sessions: set[LiveSession] = set()
        self._opening = 0
        self._closed = False
        self.error: BaseException | None = None  # of the session that failed last
        self._total = self._refused = 0
        self._answers: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            ("GET", ""): self._page, ("GET", "healthz"): self._health, ("GET", "metrics"): self._metrics,
            ("GET", "portraits"): self._list, ("POST", "portraits"): self._upload, ("POST", "offer"): self._offer}

    @cached_property
    def app(self) -> web.Application:
        """A server of its own."""
        app = web.Application(client_max_size=LARGEST_UPLOAD)

        async def answer(request: web.Request) -> web.StreamResponse:
            return await self.handle(request, request.match_info["path"])

        async def close(_: web.Application) -> None:
            await self.close()

        app.router.add_route("*", "/{path:.*}", answer)
        app.on_shutdown.append(close)
        return app

    async def handle(self, request: web.Request, path: str) -> web.StreamResponse:
        """What is answered at `path` below the page's address, by whichever server it is mounted in."""
        return await self._guarded(request, path)

    async def _guarded(self, request: web.Request, path: str) -> web.StreamResponse:
        """One line of JSON for whatever cannot be done; foreign pages and callers without the token get nothing."""
        try:
            self._check(request, path)
            if (request.content_length or 0) > LARGEST_UPLOAD:
                raise web.HTTPRequestEntityTooLarge(LARGEST_UPLOAD, request.content_length or 0)
            return await self._answer(request, path)
        except InputError as error:
            return web.json_response({"error": str(error)}, status=400)
        except web.HTTPRequestEntityTooLarge:
            return web.json_response({"error": f"upload: too large; send at most {LARGEST_UPLOAD // 2**20} MiB"}, status=413)
        except web.HTTPException as error:
            return web.json_response({"error": f"{request.path[:80]}: {error.reason}"}, status=error.status)

    def _check(self, request: web.Request, path: str) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(reason="pages of other origins may not talk to this server")
        token = self.options.token
        if token and path not in ("", "healthz") and not path.startswith("page/"):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), token.encode()):
                raise web.HTTPUnauthorized(reason="the token is missing or wrong")

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        folder, _, name = path.partition("/")
        method = "GET" if request.method == "HEAD" else request.method
        if method == "GET" and name and folder == "portraits":
            return await self._picture(name)
        if method == "GET" and folder == "page" and name in PAGE_FILES:
            return web.FileResponse(PAGE / name)
        if (answer := self._answers.get((method, path))) is not None:
            return await answer(request)
        if allowed := [m for m, p in self._answers if p == path]:
            raise web.HTTPMethodNotAllowed(request.method, allowed)
        raise web.HTTPNotFound

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": True, "sessions": len(self.sessions), "most_sessions": self.options.most_sessions})

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        counts = [s.avatar.counts for s in self.sessions]
        rows = {
            "sessions": len(self.sessions), "sessions_total": self._total, "sessions_refused_total": self._refused,
            "pairs": sum(c.pairs for c in counts), "pairs_held": sum(c.held for c in counts),
            "chunks_dropped": sum(c.dropped for c in counts)}
        text = "".join(f"# TYPE talking_machines_{k} gauge\ntalking_machines_{k} {v}\n" for k, v in rows.items())
        return web.Response(text=text, content_type="text/plain")

    async def _list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(list(self._known))

    async def _picture(self, name: str) -> web.StreamResponse:
        known = self._known.get(name)
        if known is None:
            raise web.HTTPNotFound
        if isinstance(known, Path):
            return web.FileResponse(known)
        shown = io.BytesIO()
        Image.fromarray(known.picture).save(shown, "JPEG", quality=90)
        return web.Response(body=shown.getvalue(), content_type="image/jpeg")

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """A picture of one's own: its bytes; known by a name that nobody can guess, for as long as few newer ones come."""
        picture = await asyncio.to_thread(_opened, await request.read())
        portrait = await asyncio.to_thread(prepare_portrait, picture, self._model.config)
        name = secrets.token_urlsafe(12)
        self._uploads[name] = portrait
        while len(self._uploads) > MOST_UPLOADS:
            self._uploads.pop(next(iter(self._uploads)))
        return web.json_response({"name": name, "warnings": list(portrait.doubts)})

    async def _offer(self, request: web.Request) -> web.StreamResponse:
        if (request.content_length or 0) > LARGEST_OFFER:
            raise web.HTTPRequestEntityTooLarge(LARGEST_OFFER, request.content_length or 0)
        try:
            asked = await request.json()
            sdp, name = str(asked["sdp"]), str(asked.get("portrait", next(iter(self._known))))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError("offer", "body", "is no JSON object with an sdp", 'send {"sdp": ..., "portrait": name}') from error
        if len(self.sessions) + self._opening >= self.options.most_sessions:
            self._refused += 1
            full = f"sessions: {self.options.most_sessions} of {self.options.most_sessions} are taken; try again later"
            return web.json_response({"error": full}, status=503)
        self._opening += 1  # until it counts as a session
        try:
            portrait = await asyncio.to_thread(self._portrait, name)
            avatar = await asyncio.to_thread(self.make_avatar, portrait)
            if self._closed:  # meanwhile
                raise web.HTTPGone(reason="the server is closing")
            answer = self._answered(avatar, sdp)
        finally:
            self._opening -= 1
        return web.json_response({"sdp": await answer, "type": "answer"})

    def _answered(self, avatar: LiveAvatar, sdp: str) -> Awaitable[str]:
        """A session, which counts from now on, and what it answers."""
        ice = RTCConfiguration([_ice_server(u) for u in self.options.ice]) if self.options.ice else None
        session = LiveSession(avatar, self._agent, ice=ice, idle_s=self.options.idle_s, on_end=self._ended)
        self.sessions.add(session)
        self._total += 1

        async def answer() -> str:
            try:
                return await session.answer(sdp)
            except BaseException:
                await session.close()
                raise

        return answer()

    def make_avatar(self, portrait: Portrait) -> LiveAvatar:
        """The avatar of a new session, not started."""
        return LiveAvatar(self._model, portrait, self._avatar)

    async def _ended(self, session: LiveSession) -> None:
        self.sessions.discard(session)
        self.error = session.error or self.error

    async def close(self) -> None:
        """End every session; no other begins."""
        self._closed = True
        for session in list(self.sessions):
            await session.close()

    def _portrait(self, name: str) -> Portrait:
        if name in self._uploads:
            return self._uploads[name]
        if name not in self._portraits:
            known = self._known.get(name)
            if known is None:
                raise InputError("portrait", name[:80], "no such portrait", f"choose one of {', '.join(self._known)}")
            self._portraits[name] = known if isinstance(known, Portrait) else prepare_portrait(open_image(known), self._model.config)
        return self._portraits[name]


def _ice_server(address: str) -> RTCIceServer:
    """Of stun:host:port or turn:user:password@host:port."""
    scheme, _, rest = address.partition(":")
    if scheme not in ("stun", "stuns", "turn", "turns") or not rest:
        raise InputError("ice", address, "is no STUN or TURN address", "use stun:host:port or turn:user:password@host:port")
    who, _, host = rest.rpartition("@")
    user, _, password = who.partition(":")
    return RTCIceServer(urls=f"{scheme}:{host}", username=user or None, credential=password or None)


def _opened(data: bytes) -> np.ndarray:
    """The picture in an upload, by the same reader as files."""
    with tempfile.NamedTemporaryFile(suffix=".upload") as file:
        file.write(data)
        file.flush()
        try:
            return open_image(Path(file.name))
        except InputError as error:
            raise InputError("upload", f"{len(data)} bytes", error.rule, error.remedy) from error


def serve(server: LiveServer) -> None:
    """Until Ctrl-C; sessions are ended first."""
    options = server.options
    # what is loaded stays: looking through it for garbage with every packet took half of a core
    gc.collect()
    gc.freeze()
    log.info("open http://%s:%d in a browser", options.host, options.port)
    web.run_app(server.app, host=options.host, port=options.port, print=None, shutdown_timeout=5)
