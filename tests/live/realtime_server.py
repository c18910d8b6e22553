"""A small server of the OpenAI Realtime protocol: real websockets, every event both ways checked by the official package's types.

It finds turns by loudness, answers each with one recorded sound, faster than it is spoken, and keeps what it was told.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from openai.types.realtime import realtime_client_event, realtime_server_event
from pydantic import BaseModel, TypeAdapter
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

RATE, STEP = 24000, 480
LOUD, BEGIN_STEPS, END_STEPS = 0.01, 4, 25  # 80 ms of loud steps begin a turn, half a second of quiet ones ends it
CLIENT, SERVER = (TypeAdapter(module) for module in (realtime_client_event.RealtimeClientEvent, realtime_server_event.RealtimeServerEvent))


def unknown_fields(event: Any, where: str = "") -> list[str]:
    """What an event says that the package's types do not know; they would let it pass."""
    found = []
    if isinstance(event, BaseModel):
        found += [f"{where}.{name}" for name in event.model_extra or {}]
        for name in type(event).model_fields:
            found += unknown_fields(getattr(event, name, None), f"{where}.{name}")
    elif isinstance(event, list):
        for entry in event:
            found += unknown_fields(entry, where)
    return found


@dataclass(kw_only=True)
class Said:
    """An item of the server's: what was sent of it, and where it was truncated."""

    text: str
    sent: int = 0
    done: bool = False
    truncated_ms: int | None = None


@dataclass(kw_only=True)
class RealtimeServer:
    """One conversation at a time; `piece_s` and `pause_s`: how much sound at once, and how long between."""

    sound: np.ndarray
    text: str = "This is what I say."
    piece_s: float = 0.1
    pause_s: float = 0.02
    received: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # events that are not of the protocol
    items: dict[str, Said] = field(default_factory=dict)
    heard: list[np.ndarray] = field(default_factory=list)
    turns: int = 0
    ends_first: bool = False  # as Hugging Face's speech-to-speech 1.1: a response ends, transcript and all, before the turn is told
    fail: str | None = None  # how the next responses end
    cancelled: list[str] = field(default_factory=list)
    connections: int = 0

    async def __aenter__(self) -> RealtimeServer:
        self.numbers = itertools.count(1)
        self._server = await serve(self._meet, "127.0.0.1", getattr(self, "port", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def drop(self) -> None:
        """The connection breaks."""
        self.peer.transport.abort()

    async def tell(self, event: dict[str, Any]) -> None:
        """Only events that the package would know."""
        event = {"event_id": f"event_{next(self.numbers)}", **event}
        wrong = unknown_fields(SERVER.validate_python(event), event["type"])
        assert not wrong, wrong
        with contextlib.suppress(ConnectionClosed):
            await self.peer.send(json.dumps(event))

    async def error(self, code: str, message: str, about: str | None) -> None:
        await self.tell({"type": "error", "error": {
            "type": "invalid_request_error", "code": code, "message": message, "param": None, "event_id": about}})

    async def _meet(self, peer: ServerConnection) -> None:
        assert peer.request is not None
        self.path, self.key = peer.request.path, peer.request.headers.get("Authorization")
        self.peer, self.running, self.speaking, self.loud, self.quiet, self.sent_steps = peer, {}, False, 0, 0, 0
        self.connections += 1
        await self.tell({"type": "session.created", "session": {"type": "realtime", "model": "small"}})
        try:
            async for message in peer:
                event = json.loads(message)
                try:
                    wrong = unknown_fields(CLIENT.validate_python(event), event["type"])
                except ValueError as error:
                    wrong = [str(error)]
                self.broken += wrong
                if event["type"] != "input_audio_buffer.append":
                    self.received.append(event)
                if not wrong:
                    await self._do(event)
        except ConnectionClosed:
            pass
        finally:
            for task in self.running.values():
                task.cancel()

    async def _do(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "input_audio_buffer.append":
            await self._hear(np.frombuffer(base64.b64decode(event["audio"]), "<i2") / np.float32(32768))
        elif kind == "session.update":
            self.session = event["session"]
            await self.tell({"type": "session.updated", "session": event["session"]})
        elif kind == "conversation.item.create":
            await self.tell({"type": "conversation.item.added", "item": {"id": f"item_{next(self.numbers)}", **event["item"]}})
        elif kind == "response.create":
            if self.running:
                await self.error("conversation_already_has_active_response", "one response at a time", event.get("event_id"))
            else:
                await self._answer()
        elif kind == "response.cancel":
            if event.get("response_id") not in self.running and (event.get("response_id") or not self.running):
                await self.error("response_cancel_not_active", "Cancellation failed: no active response found", event.get("event_id"))
            else:
                await self._cancel("client_cancelled")
        elif kind == "conversation.item.truncate":
            item = self.items.get(event["item_id"])
            if item is None or event["audio_end_ms"] > 1000 * item.sent / RATE:
                await self.error("invalid_value", "Audio content is shorter than that", event.get("event_id"))
            else:
                item.truncated_ms = event["audio_end_ms"]
                await self.tell({
                    "type": "conversation.item.truncated", "item_id": event["item_id"], "content_index": event["content_index"],
                    "audio_end_ms": event["audio_end_ms"]})

    async def _hear(self, samples: np.ndarray) -> None:
        self.heard.append(samples)
        for begin in range(0, len(samples), STEP):
            loud = float(np.sqrt(np.mean(samples[begin : begin + STEP] ** 2))) > LOUD
            self.sent_steps += 1
            self.loud, self.quiet = (self.loud + 1, 0) if loud else (0, self.quiet + 1)
            now = {"item_id": f"turn_{self.turns}"}
            if not self.speaking and self.loud >= BEGIN_STEPS:
                self.speaking = True
                if self.ends_first:
                    await self._cancel("turn_detected")
                await self.tell({"type": "input_audio_buffer.speech_started", "audio_start_ms": 20 * self.sent_steps - 80, **now})
                await self._cancel("turn_detected")
            elif self.speaking and self.quiet >= END_STEPS:
                self.speaking = False
                self.turns += 1
                await self.tell({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 20 * self.sent_steps, **now})
                await self.tell({"type": "input_audio_buffer.committed", "previous_item_id": None, **now})
                await self.tell({
                    "type": "conversation.item.input_audio_transcription.completed", "content_index": 0, "transcript": "What I said.",
                    "usage": {"type": "duration", "seconds": 1.0}, **now})
                await self._answer()

    async def _cancel(self, reason: str) -> None:
        for number, task in list(self.running.items()):
            task.cancel()
            self.running.pop(number)
            self.cancelled.append(reason)
            if self.ends_first:
                place = {"response_id": number, "item_id": list(self.items)[-1], "output_index": 0, "content_index": 0}
                await self.tell({"type": "response.output_audio.done", **place})
                await self.tell({"type": "response.output_audio_transcript.done", "transcript": self.text, **place})
            await self._done(number, "cancelled", {"type": "cancelled", "reason": reason})

    async def _done(self, number: str, status: str, details: dict[str, Any] | None = None) -> None:
        response = {"id": number, "object": "realtime.response", "status": status, "status_details": details, "output": []}
        await self.tell({"type": "response.done", "response": response})

    async def _answer(self) -> None:
        number = f"resp_{next(self.numbers)}"
        await self.tell({"type": "response.created", "response": {
            "id": number, "object": "realtime.response", "status": "in_progress", "output": []}})
        self.running[number] = asyncio.get_running_loop().create_task(self._speak(number))

    async def _speak(self, number: str) -> None:
        if self.fail is not None:
            self.running.pop(number)
            await self._done(number, "failed", {"type": "failed", "error": {"type": "server_error", "code": "none", "message": self.fail}})
            return
        name = f"item_{next(self.numbers)}"
        item = self.items[name] = Said(text=self.text)
        place = {"response_id": number, "item_id": name, "output_index": 0, "content_index": 0}
        size, words = round(self.piece_s * RATE), self.text.split(" ")
        pieces = [self.sound[i : i + size] for i in range(0, len(self.sound), size)]
        for i, piece in enumerate(pieces):
            if i < len(words):
                await self.tell({"type": "response.output_audio_transcript.delta", "delta": f"{' ' if i else ''}{words[i]}", **place})
            item.sent += len(piece)
            delta = base64.b64encode((piece * 32767).astype("<i2").tobytes()).decode()
            await self.tell({"type": "response.output_audio.delta", "delta": delta, **place})
            await asyncio.sleep(self.pause_s)
        item.done = True
        await self.tell({"type": "response.output_audio.done", **place})
        await self.tell({"type": "response.output_audio_transcript.done", "transcript": self.text, **place})
        self.running.pop(number)
        await self._done(number, "completed")
