"""Pipecat: a LiveAvatar as a video service, between a text-to-speech service and a transport. Not part of the paper.

Importing this needs `pipecat-ai` (extra `pipecat`). Spoken sound comes in as TTSAudioRawFrame as fast as it is made; pictures and sound
of an answer leave in pairs at the frame rate, while the face listens pictures alone: a transport's queue runs dry then, and what was late
in one answer is not in the next. What a pipeline sends behind the sound of an answer (its end, the words that were spoken) leaves when that
sound has left. Non-goals: transports.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import numpy as np

from ..errors import InputError
from .avatar import LiveAvatar, LivePair
from .pacing import Pacer

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InterruptionFrame,
        OutputImageRawFrame,
        StartFrame,
        SystemFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.services.ai_service import AIService
    from pipecat.services.settings import ServiceSettings
except ModuleNotFoundError as error:
    raise InputError("pipecat", f"{error.name}", "is not installed", "run: pip install 'talking-machines[pipecat]'") from error

POLL_S = 0.02
LEAD_S = 0.08  # of an answer that is handed out before its time, so that its sound has no gaps where this comes a little late


class PipecatVideoService(AIService):  # type: ignore[misc]
    """Speaks what is said, listens otherwise; an InterruptionFrame interrupts it.

    A UserStartedSpeakingFrame alone goes on and interrupts nothing: it comes with an InterruptionFrame, but where the pipeline's turns are
    set not to interrupt, and there text-to-speech goes on as well. Event `on_answer_interrupted(service, position_s)`: how much of the
    answer was handed out.

    Pictures and sound keep together by `sync_with_audio`, which transports honour with `video_out_is_live=False`; with
    `video_out_is_live=True` they show such pictures never: make the service with `sync_with_audio=False` there.
    """

    def __init__(self, avatar: LiveAvatar, *, sync_with_audio: bool = True, **kwargs: Any) -> None:
        """The avatar is started with the pipeline and closed with it; `kwargs` are FrameProcessor's."""
        super().__init__(settings=ServiceSettings(model=None), **kwargs)
        self._avatar, self._sync = avatar, sync_with_audio
        self._showing: asyncio.Task[None] | None = None
        self._context: str | None = None
        self._interruptions = 0
        self._spoken: int | None = None  # the answer that was over last: the silence that fills its last chunk is still handed out
        self._pushed_s, self._ended = 0.0, False  # of the answer under way
        self._behind: deque[tuple[float, Frame]] = deque()  # frames of this answer, and the second of it that they follow
        self._later: deque[Frame] = deque()  # what came behind the end of an answer that is still spoken
        self._register_event_handler("on_answer_interrupted")

    async def start(self, frame: StartFrame) -> None:
        """Begin to make and to show frames."""
        await super().start(frame)
        self._avatar.start()
        self._showing = self.create_task(self._show())

    async def cancel(self, frame: CancelFrame) -> None:
        """End at once."""
        await super().cancel(frame)
        await self._close()

    async def stop(self, frame: EndFrame) -> None:
        """End after what is being said."""
        await super().stop(frame)
        await self._close()

    async def cleanup(self) -> None:
        """End, however the pipeline did."""
        await super().cleanup()
        await self._close()

    async def _close(self) -> None:
        showing, self._showing = self._showing, None
        if showing is not None:
            await self.cancel_task(showing)
        await asyncio.to_thread(self._avatar.close)

    # -- what comes in ----------------------------------------------------------------------------------

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Sound is spoken, interruptions interrupt, everything else goes on in its place."""
        if isinstance(frame, EndFrame):
            await self._finish()
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            kept = await self._interrupt()
            await self.push_frame(frame, direction)
            for later in kept:
                await self.push_frame(later)
        elif direction is not FrameDirection.DOWNSTREAM or isinstance(frame, SystemFrame | StartFrame | EndFrame) or frame.pts:
            await self.push_frame(frame, direction)
        elif self._ended or self._later:
            self._later.append(frame)
        else:
            await self._advance(frame)

    async def _advance(self, frame: Frame) -> None:
        """A frame in its turn: sound at once, what follows sound of the answer after that."""
        if isinstance(frame, TTSAudioRawFrame):
            await self._say(frame)
        elif not self._pushed_s:
            await self.push_frame(frame)
        else:
            self._behind.append((self._pushed_s, frame))
            if isinstance(frame, TTSStoppedFrame):
                self._end_answer()

    async def _say(self, frame: TTSAudioRawFrame) -> None:
        levels = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
        if not len(levels):
            return
        self._context = frame.context_id
        try:
            self._avatar.push_audio((levels.mean(1) / 32768).astype(np.float32), frame.sample_rate)
        except InputError as problem:
            await self.push_error(error_msg=str(problem), exception=problem)
            return
        self._pushed_s += len(levels) / frame.sample_rate

    def _end_answer(self) -> None:
        self._avatar.end_of_speech()
        self._ended = True

    async def _finish(self) -> None:
        """Waits until all that was said before the end of the pipeline has been spoken, or interrupted."""
        while self._showing is not None and not self._showing.done() and (self._pushed_s or self._later):
            if self._pushed_s and not self._ended:
                self._end_answer()
            await asyncio.sleep(POLL_S)

    async def _interrupt(self) -> list[Frame]:
        """Stop speaking; of the frames that waited those that no interruption may stop."""
        interruption = self._avatar.interrupt()
        self._interruptions += 1
        kept = [frame for frame in [*(f for _, f in self._behind), *self._later] if not frame.interruptible]
        self._behind.clear()
        self._later.clear()
        self._over()
        if interruption.answer is not None:
            await self._call_event_handler("on_answer_interrupted", interruption.position_s)
        await asyncio.sleep(0)  # a pair that was sent just now reaches the next processor's queue, which the interruption clears
        return kept

    def _over(self) -> None:
        self._pushed_s, self._ended = 0.0, False

    # -- what goes out ----------------------------------------------------------------------------------

    async def _show(self) -> None:
        """Takes a pair whenever it is due."""
        pacer, lead_s = Pacer(self._avatar.fps), 0.0
        try:
            await asyncio.to_thread(self._avatar.wait_ready)
            while True:
                await asyncio.sleep(pacer.wait_s(time.monotonic(), lead_s))
                pair = self._avatar.take()
                lead_s = LEAD_S if pair.answer is not None else 0.0
                await self._send(pair)
        except Exception as problem:  # whatever a worker of the avatar failed of
            await self.push_error(error_msg=f"the avatar ended: {problem}", exception=problem)

    async def _send(self, pair: LivePair) -> None:
        interruptions = self._interruptions
        height, width = pair.frame.shape[:2]
        picture = OutputImageRawFrame(image=np.ascontiguousarray(pair.frame).tobytes(), size=(width, height), format="RGB")
        picture.sync_with_audio = self._sync
        await self.push_frame(picture)
        if pair.answer in (None, self._spoken) or interruptions != self._interruptions:
            return
        levels = (pair.samples.clip(-1, 1) * 32767).astype(np.int16).tobytes()
        rate = self._avatar.options.sample_rate
        await self.push_frame(TTSAudioRawFrame(audio=levels, sample_rate=rate, num_channels=1, context_id=self._context))
        await self._follow(pair, interruptions)

    async def _follow(self, pair: LivePair, interruptions: int) -> None:
        """What came behind the sound that has now left; after the answer's end, what came behind that."""
        spoken_s = pair.position_s + 1e-3
        while interruptions == self._interruptions and self._behind and self._behind[0][0] <= spoken_s:
            await self.push_frame(self._behind.popleft()[1])
        if interruptions == self._interruptions and self._ended and spoken_s >= self._pushed_s:
            self._spoken = pair.answer
            self._over()
            while self._later and not self._ended:
                await self._advance(self._later.popleft())
