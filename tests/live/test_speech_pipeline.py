"""The agent of three servers in a row, with a real server that answers their routes, and no face."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="openai is not installed (extra agents)")
pytest.importorskip("silero_vad", reason="silero-vad is not installed (extra agents)")

from tests.live.played import Player, until
from tests.live.speech_server import SpeechServer
from tm_core.live.agents import Agent, AgentOptions, agent_named
from tm_core.media.audio_io import read_audio

Scene = Callable[[Agent, Player, SpeechServer], Awaitable[None]]


@pytest.fixture(scope="module")
def words(assets: Path) -> np.ndarray:
    """A second of recorded speech between silences, at the microphone's rate."""
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[4000:20000]
    return np.concatenate([np.zeros(8000, np.float32), speech, np.zeros(12000, np.float32)]).astype(np.float32)


def played(scene: Scene, **server: Any) -> SpeechServer:
    """A scene between an agent and a server that found nothing wrong."""
    async def run() -> SpeechServer:
        async with SpeechServer(**server) as serves:
            player = Player()
            options = AgentOptions(
                base_url=serves.address, model="brain", stt_model="ear", tts_model="mouth", voice="low", instructions="Be brief.")
            agent = agent_named("pipeline", options)(player.output)
            try:
                await asyncio.wait_for(scene(agent, player, serves), 60)
            finally:
                await agent.close()
        assert serves.wrong == []
        return serves

    serves = asyncio.run(run())
    gc.collect()  # a coroutine that was never awaited would warn here
    return serves


async def speak(agent: Agent, samples: np.ndarray) -> None:
    for begin in range(0, len(samples), 320):
        await agent.hear(samples[begin : begin + 320])
        await asyncio.sleep(0.001)


def pitches(sound: np.ndarray) -> list[int]:
    """The tones one after the other, in Hz, of 50 ms each."""
    size = 2400
    found = [round(float(np.abs(np.fft.rfft(sound[i : i + size])).argmax() * 48000 / size)) for i in range(0, len(sound) - size, size)]
    return [p for i, p in enumerate(found) if i == 0 or p != found[i - 1]]


def test_a_turn_is_transcribed_answered_and_spoken_sentence_by_sentence(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, words)
        await until(lambda: "say" in player.calls)
        assert serves.ended["chat"] == 0  # spoken while the rest is written
        await until(lambda: "end" in player.calls)
        sound = player.play(5)
        assert abs(len(sound) / 48000 - 1.0) < 0.01 and pitches(sound) == [300, 400, 500]
        assert player.lines == [("user", "What I said."), ("avatar", serves.answer)]
        assert player.turns == [0.5]
        await agent.read("And then?")
        await until(lambda: serves.ended["chat"] == 2)

    serves = played(scene, word_s=0.05)
    assert [s["input"] for s in serves.spoken[:3]] == ["One two three four.", "Five six seven eight.", "Nine ten."]
    assert serves.asked[1]["messages"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What I said."},
        {"role": "assistant", "content": serves.answer}, {"role": "user", "content": "And then?"}]
    [wav] = serves.wavs
    assert 1.0 <= len(wav) / 16000 < 1.8  # the turn, a bit before it, not all of the quiet after it
    inner = words[8000:24000]
    match = np.correlate(wav, inner[4000:8000], "valid")
    assert match.max() > 0.95 * float((inner[4000:8000] ** 2).sum())


@pytest.mark.parametrize(("heard_s", "kept"), [
    (0.0, None), (0.2, "One two"), (0.4, "One two three four."), (0.64, "One two three four. Five six")])
def test_speaking_meanwhile_cancels_and_only_what_was_heard_is_kept(words: np.ndarray, heard_s: float, kept: str | None) -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, words)
        await until(lambda: "end" in player.calls)
        player.play(heard_s)
        await speak(agent, words[:16000])
        await until(lambda: player.calls[-1] == "interrupt")
        calls = len(player.calls)
        assert not player.queue.begun
        await asyncio.sleep(0.1)
        assert len(player.calls) == calls
        await speak(agent, words[16000:])
        await until(lambda: player.calls[calls:].count("end") == 1)
        assert player.calls[calls] == "say"
        asked = serves.asked[1]["messages"][1:]
        assert asked == (
            [{"role": "user", "content": "What I said.\nMore."}] if kept is None else
            [{"role": "user", "content": "What I said."}, {"role": "assistant", "content": kept}, {"role": "user", "content": "More."}])

    played(scene, texts=["What I said.", "More."])


@pytest.mark.parametrize("route", ["stt", "chat", "tts"])
def test_an_interruption_breaks_off_what_runs(words: np.ndarray, route: str) -> None:
    slow = {"stt": {"stt_s": 20.0}, "chat": {"word_s": 2.0}, "tts": {"pcm_s": 2.0}}[route]

    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, words)
        begun = {"stt": serves.wavs, "chat": serves.asked, "tts": serves.spoken}[route]
        await until(lambda: begun)
        await asyncio.sleep(0.1)
        await agent.interrupted(player.interrupt())
        await until(lambda: serves.broken_off[route], 5)
        calls = len(player.calls)
        await asyncio.sleep(0.2)
        assert len(player.calls) == calls

    serves = played(scene, **slow)
    assert serves.ended[route] == 0 and serves.broken_off[route] == 1


def test_who_goes_on_before_the_transcript_is_heard_as_one(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, words)
        await until(lambda: serves.wavs)
        serves.stt_s = 0.0
        await speak(agent, words)
        await until(lambda: "end" in player.calls)
        assert len(serves.wavs) == 2 and len(serves.wavs[1]) > 1.8 * len(serves.wavs[0])
        assert player.lines[0] == ("user", "What I said.") and len(serves.asked) == 1

    played(scene, stt_s=20.0)


def test_an_answer_that_was_cut_while_it_was_written_is_told_as_far_as_it_was_heard() -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await agent.read("Hello?")
        await until(lambda: player.said_s > 0.5)
        player.play(0.4)
        await agent.read("Wait.")
        await until(lambda: "end" in player.calls)
        assert player.lines == [("avatar", "One two three four. ..."), ("avatar", serves.answer)]

    serves = played(scene, word_s=0.1)
    assert serves.asked[1]["messages"][2] == {"role": "assistant", "content": "One two three four."}


def test_noise_that_is_no_words_is_not_answered(words: np.ndarray) -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, words)
        await until(lambda: serves.ended["stt"])
        await asyncio.sleep(0.1)
        assert player.lines == [] and serves.asked == []

    played(scene, texts=[" "])


@pytest.mark.parametrize(("route", "what", "status"), [
    ("stt", "speech to text", 404), ("chat", "chat", 400), ("tts", "text to speech", 401)])
def test_a_server_that_refuses_is_one_line_and_the_next_turn_is_answered(words: np.ndarray, route: str, what: str, status: int) -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        serves.status[route] = status
        await speak(agent, words)
        await until(lambda: player.told(f"({what} at {serves.address}: {status}: no {route} here)"))
        serves.status.clear()
        await speak(agent, words)
        await until(lambda: "end" in player.calls and player.calls[-1] == "end")
        assert pitches(player.play(5))[0] > 200

    played(scene)


def test_servers_that_are_not_there_or_send_files_are_told() -> None:
    async def scene(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await agent.read("Hello?")
        await until(lambda: player.told("sends a sound file where pcm was asked for"))
        assert "say" not in player.calls
        other = Player()
        lost = agent_named("pipeline", AgentOptions(base_url=serves.address, chat_url="http://127.0.0.1:9/v1", model="brain"))(other.output)
        await lost.read("Hello?")
        await until(lambda: other.told("(chat at http://127.0.0.1:9/v1: Connection error."))
        await lost.close()

    played(scene, wav_speech=True)
