"""The agent of the Realtime protocol with a server that others wrote: Hugging Face's speech-to-speech, in an environment of its own.

It brings transformers and more, so it is no part of the development environment. In a virtual environment with torch:
pip install --no-deps speech-to-speech openai==2.28.0 transformers tokenizers huggingface-hub; pip install fastapi uvicorn websockets httpx
httpx2 nltk silero-vad regex pyyaml rich; then TM_SPEECH_TO_SPEECH=.../bin/speech-to-speech. Its ears, chat and mouth are our small server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openai", reason="openai is not installed (extra agents)")

from tests.live.played import Player, until
from tests.live.speech_server import SpeechServer
from tm_core.live.agents import Agent, AgentOptions, agent_named
from tm_core.media.audio_io import read_audio

PROGRAM = os.environ.get("TM_SPEECH_TO_SPEECH")
ANSWER = " ".join(f"This is the sentence number {n}, it has ten words here." for n in range(8))
HUB = "dependencies = ['torch']\ndef silero_vad(**_):\n    from silero_vad import load_silero_vad\n    return load_silero_vad(), None\n"


@contextlib.asynccontextmanager
async def running(folder: Path, serves: SpeechServer) -> AsyncIterator[str]:
    """The program's address; what it would download to find turns is in a package, and sentences need no exceptions."""
    hub, nltk = folder / "torch" / "hub" / "snakers4_silero-vad_master", folder / "nltk"
    (nltk / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)
    (nltk / "taggers" / "averaged_perceptron_tagger_eng").mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (nltk / "tokenizers" / "punkt_tab" / "english" / name).touch()
    hub.mkdir(parents=True)
    (hub / "hubconf.py").write_text(HUB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, key = ("--{}_base_url", serves.address), ("--{}_api_key", "none")
    servers = [word.format(part) for part in ("openai_stt", "openai_tts", "responses_api") for word in (*address, *key)]
    command = [
        str(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(port), "--no_smart_turn", *servers, "--stt", "openai",
        "--openai_stt_model", "ear", "--llm_backend", "chat-completions", "--model_name", "brain", "--tts", "openai",
        "--openai_tts_model", "mouth", "--openai_tts_voice", "low", "--openai_tts_response_format", "pcm",
        "--openai_tts_sample_rate", "24000"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"NLTK_DATA": str(nltk), "TORCH_HOME": str(folder / "torch"), "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            await asyncio.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


async def speak(agent: Agent, samples: np.ndarray) -> None:
    for begin in range(0, len(samples), 320):
        await agent.hear(samples[begin : begin + 320])
        await asyncio.sleep(0.02)


async def silence(agent: Agent) -> None:
    while True:
        await speak(agent, np.zeros(3200, np.float32))


@contextlib.asynccontextmanager
async def quiet(agent: Agent) -> AsyncIterator[None]:
    """The microphone goes on meanwhile."""
    task = asyncio.get_running_loop().create_task(silence(agent))
    yield
    task.cancel()


@pytest.mark.skipif(PROGRAM is None, reason="TM_SPEECH_TO_SPEECH names no program (see this file)")
def test_turns_barge_in_button_and_text_with_a_server_of_others(assets: Path, tmp_path: Path) -> None:
    words = read_audio(next((assets / "speech").glob("*.wav"))).samples[4000:36000]

    async def talk(agent: Agent, player: Player, serves: SpeechServer) -> None:
        await speak(agent, np.zeros(8000, np.float32))
        await speak(agent, words)
        async with quiet(agent):
            await until(lambda: player.said_s > 1.5)
        player.play(0.8)
        calls = len(player.calls)
        await speak(agent, words)
        async with quiet(agent):
            await until(lambda: "interrupt" in player.calls[calls:])
            assert player.interruptions[-1].heard_s == pytest.approx(0.8, abs=0.001)
            said = player.said_s
            await until(lambda: player.calls[-1] == "end" and player.said_s > said + 5)  # the second turn's answer, whole
            player.play(1.2)
            await agent.interrupted(player.interrupt())
            said = player.said_s
            await agent.read("And now?")
            await until(lambda: player.said_s > said + 1)
            player.play(0.4)
            await agent.read("Stop.")
            said = player.said_s
            await until(lambda: player.said_s > said + 1)
            await agent.interrupted(player.interrupt())
            said = player.said_s
            await asyncio.sleep(1)
            assert player.said_s == said
        assert not [line for _, line in player.lines if line.startswith("(")]
        assert player.lines.count(("user", "What I said.")) == 2
        assert [str(m["content"]) for m in serves.asked[-1]["messages"]][-1].endswith("Stop.")

    async def run() -> None:
        async with SpeechServer(answer=ANSWER, pcm_s=0.01) as serves, running(tmp_path, serves) as address:
            player = Player()
            agent = agent_named("openai-realtime", AgentOptions(base_url=address, model="brain", voice="low"))(player.output)
            try:
                await talk(agent, player, serves)
            finally:
                await agent.close()

    asyncio.run(run())
