"""One person and one portrait: the peer connection, both tracks of the answer, the microphone and the control channel. Paper section 5.

Pairs are taken at the frame rate by one task and become a picture and 20 ms pieces of sound with the same clock, so neither can run
ahead. What a slow network cannot take is left out in whole pairs. Non-goals: signalling (server), who answers (agents).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import SessionDescription

from ..errors import InputError
from .agents import MICROPHONE_RATE, Agent, AgentOutput
from .avatar import FADE_S, Interruption, LiveAvatar, LivePair
from .pacing import Pacer
from .speech_queue import Floats

log = logging.getLogger(__name__)

CLOCK = 90_000  # of the picture's time stamps
SOUND_STEP_S = Fraction(1, 50)
# pieces of a track that may wait to be sent, older ones go: a picture that waits is shown late by as much, since senders report when they
# send and players keep to that; sound is 20 ms a piece
WAITING = {"audio": 6, "video": 2}
LONGEST_TEXT = 2000
MOST_UNTOLD = 20  # lines of the transcript that may wait for the channel
STATUS_S = 0.2
LOST_S = 7.0  # without a packet, reports included, which every peer sends each second or two: it is gone, or never came


class PairTrack(MediaStreamTrack):
    """One half of the pairs, as aiortc pulls it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._frames: deque[tuple[Any, float]] = deque(maxlen=WAITING[kind])
        self._there = asyncio.Event()

    def put(self, frame: Any, spoken_s: float = 0.0) -> None:
        """The next frame, of which so much is an answer; the oldest one goes where nobody takes them."""
        self._frames.append((frame, spoken_s))
        self._there.set()

    def hush(self) -> float:
        """Sound that was not taken yet becomes silence; how much of it was an answer."""
        unheard_s = sum(spoken_s for _, spoken_s in self._frames)
        if unheard_s:
            for i, (frame, _) in enumerate(self._frames):
                self._frames[i] = _silenced(frame, first=i == 0), 0.0
        return unheard_s

    async def recv(self) -> Any:
        """The oldest frame that waits; MediaStreamError once the track has ended."""
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._there.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._there.wait(), 0.5)
        return self._frames.popleft()[0]


def _silenced(frame: av.AudioFrame, *, first: bool) -> av.AudioFrame:
    """A frame in its place; the first one fades, so that it does not click."""
    levels = frame.to_ndarray()
    fade = round(FADE_S * frame.sample_rate) if first else 0
    levels[:, :fade] = levels[:, :fade] * np.linspace(1, 0, fade)
    levels[:, fade:] = 0
    silent = av.AudioFrame.from_ndarray(levels, "s16", "mono")
    silent.sample_rate, silent.time_base, silent.pts = frame.sample_rate, frame.time_base, frame.pts
    return silent


class LiveSession:
    """Ends when the peer goes, when it is idle for long, or by `close`; `on_end` is called once then."""

    def __init__(
        self, avatar: LiveAvatar, agent: Callable[[AgentOutput], Agent], *, ice: RTCConfiguration | None = None, idle_s: float = 600.0,
        on_end: Callable[[LiveSession], Awaitable[None]] | None = None,
    ) -> None:
        """The avatar is started here, and closed at the end."""
        self.avatar, self._idle_s, self._on_end = avatar, idle_s, on_end
        self._peer = RTCPeerConnection(ice)
        self._picture, self._sound = PairTrack("video"), PairTrack("audio")
        self._channel: Any = None
        self._untold: deque[dict[str, Any]] = deque(maxlen=MOST_UNTOLD)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.error: BaseException | None = None  # what it ended by
        self._hushed_epoch = -1  # after an interruption that silenced what waited, so that nothing of it is left to fade
        self._heard_at = time.monotonic()
        self._turn_ended_at: float | None = None
        self.latency_s: float | None = None  # from the end of the person's speech to the first sound of the answer
        self._agent = agent(AgentOutput(
            say=self._say, end=self._end_answer, interrupt=self._interrupt, note=self._note, turn_over=self._turn_over))
        self.began = time.monotonic()

    async def answer(self, sdp: str) -> str:
        """The answer to a browser's offer; InputError for an offer that cannot be used."""
        peer = self._peer
        peer.addTrack(self._sound)
        peer.addTrack(self._picture)
        peer.on("track", self._on_track)
        peer.on("datachannel", self._on_channel)
        peer.on("connectionstatechange", self._on_state)
        try:
            await _describe(peer, sdp)
        except Exception as error:  # aiortc's parsers raise whatever they stumble over
            rule = "is no offer that can be answered"
            raise InputError("offer", type(error).__name__, rule, "send the browser's offer as it is") from error
        await asyncio.to_thread(self.avatar.start)
        self._start(self._show())
        self._start(self._watch_peer())
        return str(peer.localDescription.sdp)

    async def close(self) -> None:
        """Everything of the session ends; again is no error."""
        if self._closed:
            return
        self._closed = True
        for task in [t for t in self._tasks if t is not asyncio.current_task()]:
            task.cancel()
        self._picture.stop()
        self._sound.stop()
        try:
            await self._agent.close()
        except Exception:  # whatever an agent's server does, the session ends
            log.exception("the agent did not close")
        try:
            await self._peer.close()
        except Exception as error:  # of a connection that was never whole
            log.info("closing the connection: %s", error)
        await asyncio.to_thread(self.avatar.close)
        self.error = self.error or self.avatar.error
        if self._on_end is not None:
            await self._on_end(self)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session ended: %s", error)
            self.error = self.error or error
            self._start(self.close())

    # -- what goes out ----------------------------------------------------------------------------------

    async def _show(self) -> None:
        """Takes a pair whenever it is due."""
        pacer, told = Pacer(self.avatar.fps), 0.0
        await asyncio.to_thread(self.avatar.wait_ready)
        while not self._closed:
            await asyncio.sleep(pacer.wait_s(time.monotonic()))
            pair = self.avatar.take()
            self._send(pair)
            now = time.monotonic()
            if now - told > STATUS_S:
                told = now
                self._tell_status(pair)
            if now - self._heard_at > self._idle_s:
                self._tell({"type": "ended", "reason": f"nobody spoke for {self._idle_s:.0f} s"})
                self._start(self.close())
                return

    async def _watch_peer(self) -> None:
        """Ends the session of a peer that went without a word: the protocol itself takes half a minute to see it."""
        packets, changed = -1, time.monotonic()
        while not self._closed:
            await asyncio.sleep(1.0)
            stats = (await self._peer.getStats()).values()
            now = sum(s.packetsReceived for s in stats if s.type == "transport")
            if now != packets:
                packets, changed = now, time.monotonic()
            elif time.monotonic() - changed > LOST_S:
                self._start(self.close())
                return

    def _send(self, pair: LivePair) -> None:
        fps, rate = self.avatar.fps, self.avatar.options.sample_rate
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pair.frame), "rgb24")
        picture.pts, picture.time_base = int(pair.pts * CLOCK / fps), Fraction(1, CLOCK)
        step = int(SOUND_STEP_S * rate)
        levels = (pair.samples.clip(-1, 1) * 32767).astype(np.int16)
        if pair.answer is None and pair.epoch == self._hushed_epoch:
            levels[:] = 0
        if pair.answer is not None and self._turn_ended_at is not None:
            self.latency_s, self._turn_ended_at = time.monotonic() - self._turn_ended_at, None
        for begin in range(0, len(levels), step):
            sound = av.AudioFrame.from_ndarray(levels[None, begin : begin + step], "s16", "mono")
            sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
            sound.pts = pair.pts * len(levels) + begin
            self._sound.put(sound, max(0, min(step, pair.spoken - begin)) / rate)
        self._picture.put(picture)

    def _tell(self, message: dict[str, Any]) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps(message))

    def _tell_status(self, pair: LivePair) -> None:
        counts = self.avatar.counts
        state = "listening" if self.avatar.state == "listening" else "waiting"  # what is decided is not shown yet
        latency = None if self.latency_s is None else round(1000 * self.latency_s)
        self._tell({
            "type": "status", "state": "speaking" if pair.answer is not None else state, "latency_ms": latency,
            "held": counts.held, "pairs": counts.pairs})

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._start(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=MICROPHONE_RATE)
        while not self._closed:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            for piece in resampler.resample(cast(av.AudioFrame, frame)):
                await self._agent.hear(piece.to_ndarray().reshape(-1).astype(np.float32))

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", lambda message: self._start(self._command(message)))
        while self._untold:
            self._tell(self._untold.popleft())

    async def _command(self, message: str | bytes) -> None:
        """What the page asks for; anything else is answered in one line."""
        try:
            asked = json.loads(message)
            kind = asked["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._tell({"type": "error", "text": "message: is no JSON object with a type; send one with type text or interrupt"})
            return
        self._heard_at = time.monotonic()
        if kind == "interrupt":
            await self._agent.interrupted(self._interrupt())
        elif kind == "text" and isinstance(asked.get("text"), str) and 0 < len(asked["text"]) <= LONGEST_TEXT:
            self._note("user", asked["text"])
            await self._agent.read(asked["text"])
        else:
            rule = f"is neither an interrupt nor a text of 1 to {LONGEST_TEXT} letters"
            self._tell({"type": "error", "text": f"message: {str(kind)[:40]!r} {rule}; send one of these"})

    def _on_state(self) -> None:
        if self._peer.connectionState in ("failed", "closed", "disconnected") and not self._closed:
            self._start(self.close())

    # -- what the agent puts out ------------------------------------------------------------------------------

    def _say(self, samples: Floats, rate: int) -> None:
        self._heard_at = time.monotonic()
        self.avatar.push_audio(samples, rate)

    def _turn_over(self, ago_s: float) -> None:
        self._turn_ended_at = time.monotonic() - ago_s

    def _end_answer(self) -> None:
        self.avatar.end_of_speech()

    def _interrupt(self) -> Interruption:
        self._heard_at = time.monotonic()
        interruption, unheard_s = self.avatar.interrupt(), self._sound.hush()
        if unheard_s:
            self._hushed_epoch = self.avatar.epoch
            interruption = replace(
                interruption, position_s=max(0.0, interruption.position_s - unheard_s), heard_s=max(0.0, interruption.heard_s - unheard_s))
        if interruption.answer is not None:
            self._tell({"type": "interrupted", "position_s": round(interruption.position_s, 3)})
        return interruption

    def _note(self, who: str, text: str) -> None:
        line = {"type": "transcript", "who": who, "text": text}
        if self._channel is None:  # an agent that cannot reach its server says so early
            self._untold.append(line)
        self._tell(line)


async def _describe(peer: RTCPeerConnection, sdp: str) -> None:
    """Take up an offer and prepare the answer; raises for one whose connection would fail later, where nobody waits for it."""
    offered = SessionDescription.parse(sdp)
    media, bundled = offered.media, [mid for group in offered.group if group.semantic == "BUNDLE" for mid in group.items]
    if sorted(bundled) != sorted({m.rtp.muxId for m in media}) or len(bundled) != len(media):
        raise ValueError("tracks that do not share one connection")
    if not media or not all(m.dtls and m.dtls.fingerprints and m.ice and m.ice.usernameFragment and m.ice.password for m in media):
        raise ValueError("no certificate or no address to check")
    await peer.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
    ends = [t.sender.transport for t in peer.getTransceivers()] + ([peer.sctp.transport] if peer.sctp else [])
    if any(end is None for end in ends):
        raise ValueError("a track without a transport")
    await peer.setLocalDescription(await peer.createAnswer())
