"""A peer of the live server by aiortc: it speaks what it is given, and notes when and with which stamps picture and sound arrive.

Shapes: n samples, T frames, H x W the picture.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpSrPacket

from benchmarks._live.voices import RATE

STEP_S = 0.02
CLOCKS = {"audio": 48000, "video": 90000}
REPORTS = 20  # sender reports that a player would average over


class Microphone(MediaStreamTrack):
    """Speaks what it is given at the pace it is spoken, silence otherwise."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[np.ndarray] = deque()
        self._began: float | None = None
        self._count = 0
        self.spoken: list[tuple[float, float]] = []  # when the first step of what was given left, and the last one
        self._start: float | None = None

    def speak(self, samples: np.ndarray) -> None:
        """Samples (n,) at RATE, from the next step on."""
        size = round(STEP_S * RATE)
        padded = np.pad(samples, (0, -len(samples) % size))
        self._waiting.extend(padded.reshape(-1, size))

    @property
    def silent(self) -> bool:
        """Whether all has been spoken."""
        return not self._waiting and self._start is None

    async def recv(self) -> av.AudioFrame:
        """The next step, when it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        await asyncio.sleep(max(0.0, self._began + self._count * STEP_S - now))
        now, step = time.monotonic(), None
        if self._waiting:
            step = self._waiting.popleft()
            self._start = now if self._start is None else self._start
        elif self._start is not None:
            self.spoken.append((self._start, now))
            self._start = None
        levels = np.zeros(round(STEP_S * RATE), np.int16) if step is None else (step.clip(-1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], "s16", "mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = self._count * len(levels)
        self._count += 1
        return frame


@dataclass(kw_only=True)
class Arrivals:
    """Of one track: when packets of a stamp came, and what the sender's reports say."""

    last: dict[int, float] = field(default_factory=dict)  # stamp -> arrival of its last packet, time.monotonic
    first_stamp: int | None = None
    reports: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=REPORTS))  # NTP seconds, stamp

    def arrived(self, stamp: int, now: float) -> None:
        """A packet; only some minutes are kept."""
        self.last[stamp] = now
        if len(self.last) > 20_000:
            for old in list(self.last)[:5_000]:
                del self.last[old]

    def sender_s(self, stamp: int, clock: int) -> float | None:
        """The sender's NTP time of a stamp, by the median of its last reports; None before the first."""
        if not self.reports:
            return None
        zero = self.reports[-1][1]
        offsets = [ntp - _signed(at - zero) / clock for ntp, at in self.reports]
        return float(np.median(offsets)) + _signed(stamp - zero) / clock


def _signed(difference: int) -> int:
    return (difference + 2**31) % 2**32 - 2**31


@dataclass(frozen=True, kw_only=True)
class Received:
    """A decoded piece: its stamp and when its last packet arrived (time.monotonic); a picture's or a sound's samples."""

    stamp: int
    arrived: float
    data: np.ndarray


class Caller:
    """One conversation; what is received is kept, or handed to `on_sound` and `on_picture`."""

    def __init__(
        self, *, speaks: bool = True, on_sound: Callable[[Received], None] | None = None,
        on_picture: Callable[[Received], None] | None = None, colour: bool = True,
    ) -> None:
        """`colour`: pictures (H, W, 3), else their luminance (H, W)."""
        self.peer, self.microphone = RTCPeerConnection(), Microphone()
        self.sounds: list[Received] = []
        self.pictures: list[Received] = []
        self.told: list[tuple[float, dict[str, Any]]] = []
        self.arrivals = {"audio": Arrivals(), "video": Arrivals()}
        self._on_sound, self._on_picture = on_sound or self.sounds.append, on_picture or self.pictures.append
        self._colour = colour
        self._tasks: set[asyncio.Task[None]] = set()
        if speaks:
            self.peer.addTrack(self.microphone)
        else:
            self.peer.addTransceiver("audio", direction="recvonly")
        self.peer.addTransceiver("video", direction="recvonly")
        self.channel = self.peer.createDataChannel("control")
        self.channel.on("message", lambda m: self.told.append((time.monotonic(), json.loads(m))))
        self.peer.on("track", self._on_track)

    async def offer(self) -> str:
        """Its own side."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def call(self, client: aiohttp.ClientSession, address: str, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body of the server's answer, which is taken up."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with client.post(f"{address}/offer", json={"sdp": await self.offer()}, headers=headers) as answer:
            body = await answer.json()
            if answer.status == 200:
                await self.peer.setRemoteDescription(RTCSessionDescription(sdp=body["sdp"], type="answer"))
                self._watch()
            return answer.status, body

    def _watch(self) -> None:
        """Note packets before aiortc's own buffers."""
        for receiver in self.peer.getReceivers():
            self._watch_one(receiver, self.arrivals[receiver.track.kind])

    @staticmethod
    def _watch_one(receiver: Any, arrivals: Arrivals) -> None:
        rtp, rtcp = receiver._handle_rtp_packet, receiver._handle_rtcp_packet

        async def on_rtp(packet: Any, arrival_time_ms: int) -> None:
            arrivals.arrived(packet.timestamp, time.monotonic())
            await rtp(packet, arrival_time_ms)

        async def on_rtcp(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                ntp = packet.sender_info.ntp_timestamp
                if ntp:  # none has been sent before the first packet
                    arrivals.reports.append(((ntp >> 32) + (ntp & 0xFFFFFFFF) / 2**32, packet.sender_info.rtp_timestamp))
            await rtcp(packet)

        receiver._handle_rtp_packet, receiver._handle_rtcp_packet = on_rtp, on_rtcp

    def _on_track(self, track: MediaStreamTrack) -> None:
        task = asyncio.ensure_future(self._receive(track))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(self, track: Any) -> None:
        arrivals = self.arrivals[track.kind]
        receiver: Any = next(r for r in self.peer.getReceivers() if r.track is track)
        mapper = receiver._RTCRtpReceiver__timestamp_mapper
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            stamp = (mapper._origin + frame.pts) % 2**32
            arrived = arrivals.last.get(stamp, time.monotonic())
            if track.kind == "audio":
                data = frame.to_ndarray().reshape(-1, 2)[:, 0].astype(np.float32) / 32768
                self._on_sound(Received(stamp=stamp, arrived=arrived, data=data))
            else:
                data = frame.to_ndarray(format="rgb24") if self._colour else luminance(frame)
                self._on_picture(Received(stamp=stamp, arrived=arrived, data=data))

    async def close(self) -> None:
        """Says goodbye."""
        self.microphone.stop()
        await self.peer.close()

    async def vanish(self) -> None:
        """Goes without a word: its sockets are closed, no goodbye is sent."""
        self.microphone.stop()
        for transport in {r.transport for r in self.peer.getReceivers()}:
            await transport.transport._connection.close()


def luminance(frame: av.VideoFrame) -> np.ndarray:
    """(H, W) of a decoded frame, every eighth pixel: enough to see white."""
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:: 8, : frame.width : 8].copy()


async def until(true: Callable[[], Any], seconds: float = 60.0) -> bool:
    """Whether it became so in time."""
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.02)
    return True


def joined(sounds: list[Received]) -> np.ndarray:
    """(n,) at 48 kHz, as a player would hear it: what is missing by the stamps is silence."""
    if not sounds:
        return np.zeros(0, np.float32)
    zero = sounds[0].stamp
    ends = [(_signed(s.stamp - zero), s.data) for s in sounds]
    whole = np.zeros(max(at + len(d) for at, d in ends), np.float32)
    for at, data in ends:
        if at >= 0:
            whole[at : at + len(data)] = data
    return whole
