"""An agent that is any server of the OpenAI Realtime protocol, by the official `openai` package. Paper section 5 (an audio LLM).

The server hears the microphone and finds the turns; what it says is cut where the person begins to speak, and the server is told how
many milliseconds of it were heard. Event names are those of the protocol's general release. Non-goals: tools. Shapes: n samples.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, one_line
from ..avatar import Interruption
from ..speech_queue import Floats
from ..turn_detector import END_S
from .agent import MICROPHONE_RATE, AgentOutput
from .agent_options import INSTALL, INSTRUCTIONS, AgentOptions
from .spoken_answers import HeardPart, SpokenAnswer, SpokenAnswers

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.resources.realtime.realtime import AsyncRealtimeConnection

log = logging.getLogger(__name__)

RATE = 24000  # of the protocol's sound, both ways
MODEL, STT_MODEL, VOICE = "gpt-realtime-2", "gpt-4o-mini-transcribe", "marin"
SEND_S, KEPT_S = 0.04, 2.0  # of sound in an event; so much may wait to be sent, older sound goes
OPEN_S, SETTLE_S = 10.0, 3.0  # that a connection, and the end of a response that was cancelled, are waited for
RETRY_S = (0.5, 1.0, 2.0, 4.0)  # before a lost connection is tried again
STEADY_S = 10.0  # a connection that lasted so long was a good one
LATEST_S = 5.0  # a turn's end that is told later than this is told wrong


@dataclass(kw_only=True)
class RealtimeResponse:
    """One of the server's responses, from its beginning to its end; texts by the item they are of."""

    answer: SpokenAnswer
    texts: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # items of which all sound has come


class RealtimeAgent:
    """One conversation with the server; connected when the person first speaks or types."""

    def __init__(self, output: AgentOutput, client: AsyncOpenAI, options: AgentOptions) -> None:
        import soxr  # type: ignore[import-untyped]

        self._output, self._client, self._options = output, client, options
        self._answers = SpokenAnswers(output)
        self._resampler = soxr.ResampleStream(MICROPHONE_RATE, RATE, 1)
        self._held = np.zeros(0, np.float32)
        self._microphone: asyncio.Queue[bytes] = asyncio.Queue(round(KEPT_S / SEND_S))
        self._sent_s = 0.0
        self._connection: AsyncRealtimeConnection | None = None
        self._open, self._settled, self._typing = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._responses: dict[str, RealtimeResponse] = {}  # those that run
        self._untold: dict[str, str] = {}  # by item, what a server that has cancelled a response said; how much was heard is not known yet
        self._asked: str | None = None  # the event that asked for a response which has not begun
        self._turn_waits = self._unwanted = False  # a turn is not answered yet; what answers next was interrupted before it began
        self._count = 0
        self._settled.set()

    # -- the person ---------------------------------------------------------------------------------------

    async def hear(self, samples: Floats) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._converse())
        self._held = np.concatenate([self._held, self._resampler.resample_chunk(samples)])
        size = round(SEND_S * RATE)
        while len(self._held) >= size:
            piece, self._held = self._held[:size], self._held[size:]
            if self._microphone.full():
                self._microphone.get_nowait()
            self._microphone.put_nowait((piece.clip(-1, 1) * 32767).astype("<i2").tobytes())

    async def read(self, text: str) -> None:
        async with self._typing:
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._converse())
            opens = asyncio.ensure_future(self._open.wait())
            await asyncio.wait((opens, self._task), timeout=OPEN_S, return_when=asyncio.FIRST_COMPLETED)
            opens.cancel()
            if not self._open.is_set():
                return  # why was told
            await self._cut(self._answers.interrupt())
            await self._send({"type": "conversation.item.create", "item": {
                "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}})
            with contextlib.suppress(asyncio.TimeoutError):  # one response at a time: the one that was cancelled ends first
                await asyncio.wait_for(self._settled.wait(), SETTLE_S)
            self._output.turn_over(0.0)
            self._unwanted = False
            self._settled.clear()
            self._asked = self._named("response.create")
            await self._send({"type": "response.create"}, self._asked)

    async def interrupted(self, interruption: Interruption) -> None:
        await self._cut(self._answers.interrupted(interruption))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()

    # -- the connection -----------------------------------------------------------------------------------

    async def _converse(self) -> None:
        """Until the conversation is over, or the server cannot be reached any more."""
        from openai import OpenAIError
        from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

        tries, reason = 0, ""
        while True:
            began = time.monotonic()
            try:
                await self._connected(again=tries > 0)
            except (InvalidHandshake, InvalidURI) as error:
                reason = one_line(error)
                if not tries:  # it never was the right address, or the key is not wanted
                    break
            except (WebSocketException, OSError, asyncio.TimeoutError, OpenAIError) as error:
                reason = one_line(error) or type(error).__name__
            except Exception as error:
                log.exception("the conversation with the server failed")
                reason = type(error).__name__
            lost = self._lost()
            tries = 1 if lost and time.monotonic() - began > STEADY_S else tries + 1
            if tries > len(RETRY_S) or (tries == 1 and not lost):
                break
            log.warning("lost the connection to %s: %s", self._address, reason)
            if tries == 1:
                self._note("connection lost, connecting again")
            await asyncio.sleep(RETRY_S[tries - 1])
        log.error("no connection to %s: %s", self._address, reason)
        self._note(f"no connection to {self._address}: {reason}; type something to try again")

    @property
    def _address(self) -> str:
        return str(self._client.base_url).rstrip("/")

    async def _connected(self, *, again: bool) -> None:
        """One connection, until it is lost, which raises."""
        model = self._options.model or MODEL
        async with self._client.realtime.connect(model=model) as connection:
            self._connection, self._sent_s = connection, 0.0
            await self._send({"type": "session.update", "session": self._session()})
            sender = asyncio.get_running_loop().create_task(self._send_microphone())
            try:
                while True:
                    event = await connection.recv()
                    if not self._open.is_set() and event.type != "error":
                        self._open.set()
                        if again:
                            self._note("connected again; the server has forgotten what was said before")
                    await self._take(event)
            finally:
                sender.cancel()

    def _session(self) -> dict[str, Any]:
        sound = {"type": "audio/pcm", "rate": RATE}
        turns = {
            "type": "server_vad", "silence_duration_ms": round(1000 * END_S), "create_response": True, "interrupt_response": True}
        return {
            "type": "realtime", "instructions": self._options.instructions or INSTRUCTIONS, "output_modalities": ["audio"], "audio": {
                "input": {
                    "format": sound, "turn_detection": turns, "transcription": {"model": self._options.stt_model or STT_MODEL}},
                "output": {"format": sound, "voice": self._options.voice or VOICE}}}

    def _lost(self) -> bool:
        """Nothing of this connection counts any more; whether it had been one."""
        was, self._connection = self._open.is_set(), None
        self._open.clear()
        for response in self._responses.values():
            response.answer.end()
        self._responses.clear()
        self._untold.clear()
        self._asked, self._turn_waits, self._unwanted = None, False, False
        self._settled.set()
        return was

    async def _send_microphone(self) -> None:
        while not self._microphone.empty():  # from before there was a connection: nobody waits for an answer to it
            self._microphone.get_nowait()
        while True:
            piece = await self._microphone.get()
            await self._send({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()})
            self._sent_s += SEND_S

    def _named(self, kind: str) -> str:
        """An event's id, by which an error names what it is about."""
        self._count += 1
        return f"{kind}-{self._count}"

    async def _send(self, event: dict[str, Any], name: str | None = None) -> None:
        """Whoever receives tells that a connection is lost."""
        from websockets.exceptions import ConnectionClosed

        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send({**event, "event_id": name or self._named(event["type"])})  # type: ignore[arg-type,misc,unused-ignore]

    def _note(self, text: str) -> None:
        self._output.note("avatar", f"({text})")

    # -- an interruption ----------------------------------------------------------------------------------

    async def _cut(self, parts: list[HeardPart]) -> None:
        """Running responses are cancelled; the server's items end where they stopped to be heard."""
        self._unwanted = self._asked is not None or self._turn_waits
        running = list(self._responses.items())
        whole = {item for _, response in running for item in response.done}
        unfinished = {item for _, response in running for item in response.texts} - whole
        for _, response in running:
            self._untold |= response.texts
            response.texts.clear()
        self._note_cut(parts)
        for number, _ in running:
            await self._send({"type": "response.cancel", "response_id": number})
        for part in parts:
            item, index = part.part
            if not part.whole or item in unfinished:
                await self._send({
                    "type": "conversation.item.truncate", "item_id": item, "content_index": index,
                    "audio_end_ms": int(1000 * part.heard_s)})

    def _note_cut(self, parts: list[HeardPart]) -> None:
        """What was heard of texts that are not in the transcript yet: as large a share of the words as of the sound."""
        texts, self._untold = self._untold, {}
        for part in parts:
            item, _ = part.part
            text = texts.pop(item, "")
            if text and part.whole:
                self._output.note("avatar", text)
            elif text and part.heard_s:
                heard = text[: round(len(text) * part.heard_s / part.said_s)].rstrip()
                self._output.note("avatar", f"{heard} ...")

    # -- the server ---------------------------------------------------------------------------------------

    async def _take(self, event: Any) -> None:
        """One of the server's events; those that are not named here change nothing."""
        handler = HANDLERS.get(event.type)
        if handler is None:
            return
        try:
            waits = handler(self, event)
            if waits is not None:
                await waits
        except (AttributeError, TypeError, ValueError) as error:
            log.warning("the server's event %s cannot be read: %s", one_line(event.type), one_line(error))

    async def _speech_started(self, event: Any) -> None:
        self._turn_waits = False
        await self._cut(self._answers.interrupt())

    def _speech_stopped(self, event: Any) -> None:
        late = self._sent_s - event.audio_end_ms / 1000
        self._output.turn_over(END_S + (late if 0 <= late <= LATEST_S else 0.0))

    def _committed(self, event: Any) -> None:
        self._turn_waits = True
        self._unwanted = False
        self._settled.clear()

    async def _response_created(self, event: Any) -> None:
        self._asked, self._turn_waits = None, False
        self._settled.clear()
        self._responses[event.response.id] = RealtimeResponse(answer=self._answers.begin())
        if self._unwanted:
            self._unwanted = False
            self._responses[event.response.id].answer.open = False
            await self._send({"type": "response.cancel", "response_id": event.response.id})

    def _audio(self, event: Any) -> None:
        response = self._responses.get(event.response_id)
        if response is None or not response.answer.open:
            return
        response.texts.setdefault(event.item_id, "")
        samples = np.frombuffer(base64.b64decode(event.delta), "<i2") / np.float32(32768)
        response.answer.say(samples, RATE, (event.item_id, event.content_index))

    def _audio_done(self, event: Any) -> None:
        if (response := self._responses.get(event.response_id)) is not None:
            response.done.add(event.item_id)

    def _text(self, event: Any) -> None:
        response = self._responses.get(event.response_id)
        if response is not None and response.answer.open:
            response.texts[event.item_id] = response.texts.get(event.item_id, "") + event.delta

    def _text_done(self, event: Any) -> None:
        response = self._responses.get(event.response_id)
        if response is not None and response.answer.open:
            response.texts[event.item_id] = str(getattr(event, "transcript", None) or getattr(event, "text", ""))

    def _response_done(self, event: Any) -> None:
        response = self._responses.pop(event.response.id, None)
        if not self._responses and self._asked is None:
            self._settled.set()
        if response is None:
            return
        was_open, status = response.answer.open, event.response.status
        response.answer.end()
        details = event.response.status_details
        if was_open and status == "cancelled":  # some servers tell only then that the person speaks
            self._untold |= response.texts
        elif was_open:
            for text in filter(None, response.texts.values()):
                self._output.note("avatar", text)
        if status == "failed":
            error = getattr(details, "error", None)
            self._problem(getattr(error, "message", None) or getattr(error, "code", None) or "the response failed")
        elif status == "incomplete" and was_open:
            self._problem(f"the response is not complete: {getattr(details, 'reason', None) or 'no reason given'}")

    def _heard(self, event: Any) -> None:
        if event.transcript.strip():
            self._output.note("user", event.transcript.strip())

    def _not_heard(self, event: Any) -> None:
        self._problem(f"no transcript: {getattr(event.error, 'message', None) or 'no reason given'}")

    def _error(self, event: Any) -> None:
        about = getattr(event.error, "event_id", None) or ""
        if about == self._asked:
            self._asked = None
            self._settled.set()
        if about.startswith(("response.cancel", "conversation.item.truncate")):  # it was over already
            log.info("the server would not %s: %s", about, one_line(event.error.message))
            return
        self._problem(event.error.message)

    def _problem(self, text: str) -> None:
        log.warning("the server says: %s", one_line(text))
        self._note(f"the server says: {one_line(text)}")


HANDLERS: dict[str, Callable[[RealtimeAgent, Any], Any]] = {
    "input_audio_buffer.speech_started": RealtimeAgent._speech_started,
    "input_audio_buffer.speech_stopped": RealtimeAgent._speech_stopped,
    "input_audio_buffer.committed": RealtimeAgent._committed,
    "response.created": RealtimeAgent._response_created,
    "response.output_audio.delta": RealtimeAgent._audio,
    "response.output_audio.done": RealtimeAgent._audio_done,
    "response.output_audio_transcript.delta": RealtimeAgent._text,
    "response.output_audio_transcript.done": RealtimeAgent._text_done,
    "response.output_text.delta": RealtimeAgent._text,
    "response.output_text.done": RealtimeAgent._text_done,
    "response.done": RealtimeAgent._response_done,
    "conversation.item.input_audio_transcription.completed": RealtimeAgent._heard,
    "conversation.item.input_audio_transcription.failed": RealtimeAgent._not_heard,
    "error": RealtimeAgent._error,
}


def realtime_agents(options: AgentOptions) -> Callable[[AgentOutput], RealtimeAgent]:
    """Of one server; InputError without the packages or the key."""
    for package in ("openai", "websockets"):
        if importlib.util.find_spec(package) is None:
            raise InputError("agent", "openai-realtime", f"needs {package}, which is not installed", INSTALL)
    key = options.key_for(options.base_url)

    def make(output: AgentOutput) -> RealtimeAgent:
        from openai import AsyncOpenAI

        return RealtimeAgent(output, AsyncOpenAI(api_key=key, base_url=options.base_url), options)

    return make
