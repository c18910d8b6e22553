"""The three routes of a speech pipeline on one small server: real WAV, a streamed chat, streamed pcm."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

RATE = 24000


@dataclass(kw_only=True)
class SpeechServer:
    """`answer`: what the chat writes, word by word; a sentence is a tone, 0.1 s a word, and its pitch its number among those spoken."""

    answer: str = "One two three four. Five six seven eight. Nine ten."
    word_s: float = 0.002
    pcm_s: float = 0.002  # between pieces of 0.05 s
    stt_s: float = 0.0
    texts: list[str] = field(default_factory=lambda: ["What I said."])  # of one turn after the other; the last one again
    status: dict[str, int] = field(default_factory=dict)  # route -> what it answers instead
    wavs: list[np.ndarray] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    spoken: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=lambda: {"stt": 0, "chat": 0, "tts": 0})
    broken_off: dict[str, int] = field(default_factory=lambda: {"stt": 0, "chat": 0, "tts": 0})
    wrong: list[str] = field(default_factory=list)
    wav_speech: bool = False

    async def __aenter__(self) -> SpeechServer:
        app = web.Application()
        app.add_routes([
            web.post("/v1/audio/transcriptions", self._transcribe), web.post("/v1/chat/completions", self._chat),
            web.post("/v1/audio/speech", self._speak)])
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _refused(self, route: str) -> web.Response | None:
        status = self.status.get(route)
        return status and web.json_response({"error": {"message": f"no {route}\nhere", "type": "invalid", "code": None}}, status=status)

    async def _counted(self, route: str, work: Any) -> web.StreamResponse:
        try:
            response = await work
            self.ended[route] += 1
            return response
        except (asyncio.CancelledError, ConnectionError):
            self.broken_off[route] += 1
            raise

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        return self._refused("stt") or await self._counted("stt", self._read(request))

    async def _read(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        with wave.open(io.BytesIO(form["file"].file.read())) as file:  # type: ignore[union-attr]
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, 16000):
                self.wrong.append("another kind of wav")
            self.wavs.append(np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768))
        if form["model"] != "ear":
            self.wrong.append(f"model {form['model']}")
        await asyncio.sleep(self.stt_s)
        return web.json_response({"text": self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return self._refused("chat") or await self._counted("chat", self._write(request))

    async def _write(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.asked.append(asked)
        if not asked.get("stream") or asked["model"] != "brain":
            self.wrong.append("a chat that is not streamed, or of another model")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for i, word in enumerate(self.answer.split(" ")):
            delta = {"content": f"{' ' if i else ''}{word}"}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "brain", "choices": [
                {"index": 0, "delta": delta, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(self.word_s)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        return self._refused("tts") or await self._counted("tts", self._pcm(request))

    async def _pcm(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.spoken.append(asked)
        if asked["response_format"] != "pcm" or asked["model"] != "mouth" or asked["voice"] != "low":
            self.wrong.append(f"speech {asked}")
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        if self.wav_speech:
            await response.write(b"RIFF" + bytes(100))
        time = np.arange(round(0.1 * len(asked["input"].split()) * RATE)) / RATE
        data = (0.4 * 32767 * np.sin(2 * np.pi * (200 + 100 * len(self.spoken)) * time)).astype("<i2").tobytes()
        for begin in range(0, len(data), 2399):  # pieces that end within a sample
            await response.write(data[begin : begin + 2399])
            await asyncio.sleep(self.pcm_s)
        await response.write_eof()
        return response
