"""Lips of a session as a peer received it, by the measure of `score`, against the file job on the same sound."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import soxr

from benchmarks._common import Result, demo_portrait, load, result
from benchmarks._live.callers import CLOCKS, Caller, Received, until
from benchmarks._live.serving import Served, model_options
from benchmarks._live.voices import RATE, phrase
from tm_core import talk
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.metrics.video_score import score_video

SIZE, SECONDS, FPS = 320, 6.5, 25.0
MAX_OFF, MAX_LAG = 0.05, 0  # of the file job's r; frames
AROUND_S = 0.2


def lips_rows(weights: Path | None, device: str, seconds: float = SECONDS) -> list[Result]:
    """r and lag of both; the sound of both is the received one."""
    with Served("--size", str(SIZE), *model_options(weights, device)) as server:
        frames, samples = asyncio.run(recorded(server, seconds))
        pairs = server.events("pair")
    held = sum(p["held"] for p in pairs) / max(1, len(pairs))
    live = score_video(frames, FPS, samples, seconds=1.0)["sync"]
    filed = score_video(file_job(weights, device, samples), FPS, samples, seconds=1.0)["sync"]
    share = live["peak_r"] / filed["peak_r"]
    lag = abs(live["lag_frames"] - filed["lag_frames"])
    return [
        result("lips as received: peak r", live["peak_r"], ""), result("the file job's peak r", filed["peak_r"], ""),
        result("received over file job", share, "share", f">= {1 - MAX_OFF:g}", share >= 1 - MAX_OFF),
        result("lag as received, and of the file job", f"{live['lag_frames']}, {filed['lag_frames']}", "frames"),
        result("lag as received against the file job's", lag, "frames", f"<= {MAX_LAG}", lag <= MAX_LAG),
        result("pairs held meanwhile", held, "share")]


async def recorded(server: Served, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and samples (n,) at RATE of one answer, put together by the sender's clock as a player does."""
    caller = Caller()
    async with aiohttp.ClientSession() as client:
        status, body = await caller.call(client, server.address)
        assert status == 200, body
        await until(lambda: len(caller.pictures) > 50)
        caller.microphone.speak(phrase(seconds))
        await until(lambda: caller.microphone.spoken, seconds + 10)
        for kept in (caller.sounds, caller.pictures):
            kept.clear()
        await until(lambda: any(m["type"] == "status" and m["state"] == "speaking" for _, m in caller.told), 30)
        await asyncio.sleep(0.5)
        await until(lambda: _last_state(caller) == "listening", seconds + 30)
        await asyncio.sleep(0.5)
        await caller.close()
    return together(caller)


def _last_state(caller: Caller) -> str:
    return next((str(m["state"]) for _, m in reversed(caller.told) if m["type"] == "status"), "")


def together(caller: Caller) -> tuple[np.ndarray, np.ndarray]:
    """The stretch with sound in it, and a little around."""
    def at(piece: Received, kind: str) -> float:
        found = caller.arrivals[kind].sender_s(piece.stamp, CLOCKS[kind])
        assert found is not None
        return found

    loudest = max(float(np.abs(s.data).max()) for s in caller.sounds)
    loud = [at(s, "audio") for s in caller.sounds if np.abs(s.data).max() > 0.02 * loudest]
    begin, end = min(loud) - AROUND_S, max(loud) + AROUND_S
    sound = np.zeros(round((end - begin) * CLOCKS["audio"]), np.float32)
    for piece in caller.sounds:
        first = round((at(piece, "audio") - begin) * CLOCKS["audio"])
        if 0 <= first <= len(sound) - len(piece.data):
            sound[first : first + len(piece.data)] = piece.data
    shown = [(at(p, "video"), p.data) for p in caller.pictures]
    frames: list[Any] = []
    for number in range(round((end - begin) * FPS)):
        now = begin + (number + 0.5) / FPS  # what is on the screen in the middle of this frame
        frames.append(next((data for t, data in reversed(shown) if t <= now), shown[0][1]))
    return np.stack(frames), np.asarray(soxr.resample(sound, CLOCKS["audio"], RATE))


def file_job(weights: Path | None, device: str, samples: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) of `animate` for the same sound, portrait and size."""
    model = load(weights, device)
    subject = talk.prepare_portrait(open_image(demo_portrait()), model.config)
    speech = talk.select_speaking(talk.encode_audio(Waveform(samples=samples, sample_rate=RATE), model.config))
    stream = talk.decode_stream(talk.sample_stream(model, talk.build_scene(model, subject, speech), seed=0), framing="face", size=SIZE)
    return np.concatenate([chunk.frames for chunk in stream])
