"""An agent of three servers in a row: speech to text, a chat, text to speech. Paper section 5 (an audio LLM), in parts.

A network on this machine finds the turns. Sentences are spoken as they are written; speaking meanwhile cancels whatever runs, and the chat
is told again only what was heard. Non-goals: the servers' routes (speech_services). Shapes: n samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np

from ...errors import InputError
from ..avatar import Interruption
from ..speech_queue import Floats
from ..voice_detector import VoiceDetector, load_silero
from .agent import MICROPHONE_RATE, AgentOutput
from .agent_options import INSTALL, INSTRUCTIONS, AgentOptions
from .chat_history import ChatHistory, ChatMessage, SaidSentence
from .sentences import SentenceSplitter
from .speech_services import SPEECH_RATE, ServiceFailed, SpeechServices
from .spoken_answers import HeardPart, SpokenAnswer, SpokenAnswers
from .turn_recorder import HeardTurn, TurnRecorder

log = logging.getLogger(__name__)

LONGEST_S = 30.0  # of speech that is sent to be transcribed


class PipelineAgent:
    """One conversation; one answer at a time."""

    def __init__(self, output: AgentOutput, services: SpeechServices, network: Any, instructions: str) -> None:
        self._output, self._services = output, services
        self._answers, self._history = SpokenAnswers(output), ChatHistory(instructions)
        self._recorder = TurnRecorder(VoiceDetector(network), MICROPHONE_RATE)
        self._task: asyncio.Task[None] | None = None
        self._unread: Floats | None = None  # a turn that was not transcribed yet; the person goes on with it
        self._spoken: list[ChatMessage] = []  # answers since the last interruption
        self._untold: ChatMessage | None = None  # an answer that is not in the transcript yet

    async def hear(self, samples: Floats) -> None:
        began, turn = self._recorder.push(samples)
        if began:
            self._stop(self._answers.interrupt())
        if turn is not None:
            self._output.turn_over(turn.quiet_s)
            self._begin(partial(self._answer_turn, turn))

    async def read(self, text: str) -> None:
        self._stop(self._answers.interrupt())
        self._unread = None
        self._output.turn_over(0.0)
        self._begin(partial(self._answer, text))

    async def interrupted(self, interruption: Interruption) -> None:
        self._stop(self._answers.interrupted(interruption))
        self._unread = None
        self._recorder.forget()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._services.close()

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._task is not None:  # a turn that is longer than one recording: what was begun of its answer is not wanted
            self._stop(self._answers.interrupt())
        self._task = asyncio.get_running_loop().create_task(self._told(work))

    def _stop(self, parts: list[HeardPart]) -> None:
        """What runs is cancelled, and what was not heard is forgotten."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        for message in self._spoken:
            self._history.cut(message, parts)
        if self._untold is not None and self._untold.text:
            self._output.note("avatar", f"{self._untold.text} ...")
        self._spoken, self._untold = [], None

    async def _told(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever fails is one line in the transcript."""
        try:
            await work()
        except ServiceFailed as error:
            log.warning("%s", error)
            self._output.note("avatar", f"({error})")
        except Exception as error:
            log.exception("the answer failed")
            self._output.note("avatar", f"(the answer failed: {type(error).__name__})")

    async def _answer_turn(self, turn: HeardTurn) -> None:
        samples = turn.samples if self._unread is None else np.concatenate([self._unread, turn.samples])
        self._unread = samples = samples[-round(LONGEST_S * MICROPHONE_RATE) :]
        text = await self._services.transcribe(samples, MICROPHONE_RATE)
        self._unread = None
        if text:
            self._output.note("user", text)
            await self._answer(text)

    async def _answer(self, text: str) -> None:
        self._history.add("user", text)
        asked = self._history.messages()
        message = self._untold = self._history.add("assistant")
        self._spoken.append(message)
        answer = self._answers.begin()
        written: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        writer = asyncio.get_running_loop().create_task(self._write(asked, written))
        try:
            while (sentence := await written.get()) is not None:
                if isinstance(sentence, BaseException):
                    raise sentence
                await self._say(answer, message, sentence)
        finally:
            writer.cancel()
            answer.end()
            if self._untold is message:
                self._untold = None
                if message.text:
                    self._output.note("avatar", message.text)

    async def _write(self, asked: list[dict[str, str]], written: asyncio.Queue[str | BaseException | None]) -> None:
        """The answer's sentences as soon as they are whole, then None, or what failed."""
        splitter = SentenceSplitter()
        try:
            async with contextlib.aclosing(self._services.chat(asked)) as pieces:
                async for piece in pieces:
                    for sentence in splitter.push(piece):
                        written.put_nowait(sentence)
            for sentence in splitter.flush():
                written.put_nowait(sentence)
            written.put_nowait(None)
        except Exception as error:
            written.put_nowait(error)

    async def _say(self, answer: SpokenAnswer, message: ChatMessage, text: str) -> None:
        sentence = SaidSentence(text=text)
        message.sentences.append(sentence)
        async with contextlib.aclosing(self._services.speak(text)) as pieces:
            async for samples in pieces:
                answer.say(samples, SPEECH_RATE, sentence)
        sentence.complete = True


def pipeline_agents(options: AgentOptions) -> Callable[[AgentOutput], PipelineAgent]:
    """Of these servers; InputError without the packages, the chat's model or a key where one is needed."""
    if importlib.util.find_spec("openai") is None:
        raise InputError("agent", "pipeline", "needs openai, which is not installed", INSTALL)
    network = load_silero()
    if options.model is None:
        raise InputError("--model", "left out", "the chat's model is not named", "name it as the server does, such as --model llama3.2")
    for address in (options.stt_url, options.chat_url, options.tts_url):
        options.key_for(address or options.base_url)
    return lambda output: PipelineAgent(output, SpeechServices(options), network, options.instructions or INSTRUCTIONS)
