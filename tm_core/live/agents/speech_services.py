"""Speech to text, a chat, and text to speech of any servers with OpenAI's routes, by the `openai` package. Not part of the paper.

Each may be another server: Ollama or vLLM for the chat, a Whisper server to hear, a Kokoro server to speak. Non-goals: who may speak when
(speech_pipeline). Shapes: n samples.
"""

from __future__ import annotations

import io
import logging
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import one_line
from ..speech_queue import Floats
from .agent_options import AgentOptions

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

SPEECH_RATE = 24000  # of a speech server's pcm
STT_MODEL, TTS_MODEL, VOICE = "gpt-4o-mini-transcribe", "gpt-4o-mini-tts", "alloy"
PIECE = 9600  # bytes of speech at a time: 0.2 s
OPEN_S, ANSWER_S = 5.0, 60.0  # that a server may take to be reached, and to go on


class ServiceFailed(Exception):
    """What one of the servers would not do, in one line for the transcript."""


class SpeechServices:
    """The three servers of one conversation; every call raises ServiceFailed, and a cancelled one closes its connection."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._stt, self._chat, self._tts = (_client(options, url) for url in (options.stt_url, options.chat_url, options.tts_url))

    async def transcribe(self, samples: Floats, rate: int) -> str:
        """What was said in samples (n,); nothing where it was no speech."""
        async with _told(self._stt, "speech to text"):
            found = await self._stt.audio.transcriptions.create(
                model=self._options.stt_model or STT_MODEL, file=("turn.wav", _wav(samples, rate), "audio/wav"))
            return str(found.text).strip()

    async def chat(self, messages: list[dict[str, str]]) -> AsyncGenerator[str, None]:
        """The answer's text in pieces, as it is written."""
        async with _told(self._chat, "chat"):
            asked: Any = messages
            stream = await self._chat.chat.completions.create(model=str(self._options.model), messages=asked, stream=True)
            async with stream:
                async for chunk in stream:
                    if chunk.choices and (text := chunk.choices[0].delta.content):
                        yield text

    async def speak(self, text: str) -> AsyncGenerator[Floats, None]:
        """Samples (n,) of a sentence at SPEECH_RATE, in pieces, as they are made."""
        async with _told(self._tts, "text to speech"):
            asked = self._tts.audio.speech.with_streaming_response.create(
                model=self._options.tts_model or TTS_MODEL, voice=self._options.voice or VOICE, input=text, response_format="pcm")
            async with asked as response:
                held, first = b"", True
                async for data in response.iter_bytes(PIECE):
                    if first and data[:4] in (b"RIFF", b"ID3\x04", b"OggS", b"fLaC"):
                        raise ServiceFailed(f"text to speech at {self._tts.base_url}: sends a sound file where pcm was asked for")
                    held, first = held + data, False
                    whole = len(held) // 2 * 2
                    yield np.frombuffer(held[:whole], "<i2") / np.float32(32768)
                    held = held[whole:]

    async def close(self) -> None:
        """Connections end."""
        for client in (self._stt, self._chat, self._tts):
            await client.close()


def _client(options: AgentOptions, address: str | None) -> AsyncOpenAI:
    from openai import AsyncOpenAI, Timeout

    address = address or options.base_url
    return AsyncOpenAI(
        base_url=address, api_key=options.key_for(address), timeout=Timeout(ANSWER_S, connect=OPEN_S), max_retries=1)


@asynccontextmanager
async def _told(client: AsyncOpenAI, what: str) -> AsyncIterator[None]:
    """Whatever the package raises becomes one line."""
    from openai import APIConnectionError, APIStatusError

    try:
        yield
    except ServiceFailed:
        raise
    except APIStatusError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        reason = f"{error.status_code}: {said or error.response.reason_phrase}"
    except APIConnectionError as error:
        reason = f"{error} {error.__cause__ or ''}"
    except Exception as error:  # connections that break in the middle, answers of another shape
        log.debug("%s failed", what, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    else:
        return
    raise ServiceFailed(f"{what} at {str(client.base_url).rstrip('/')}: {one_line(reason)}")


def _wav(samples: Floats, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
