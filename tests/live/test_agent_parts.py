"""What agents are made of: answers that can be cut, sentences, history, options, turns by the network."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live.played import Player
from tm_core.errors import InputError
from tm_core.live.agents import AgentOptions, agent_named
from tm_core.live.agents.chat_history import ChatHistory, SaidSentence
from tm_core.live.agents.sentences import LONGEST, SentenceSplitter
from tm_core.live.agents.spoken_answers import HeardPart, SpokenAnswer, SpokenAnswers
from tm_core.media.audio_io import read_audio

ACTIONS = st.lists(st.one_of(
    st.tuples(st.just("begin"), st.just(0)), st.tuples(st.just("say"), st.integers(0, 3)), st.tuples(st.just("end"), st.integers(0, 3)),
    st.tuples(st.just("play"), st.integers(1, 12)), st.tuples(st.just("interrupt"), st.just(0)),
    st.tuples(st.just("button"), st.just(0))), max_size=40)


@given(actions=ACTIONS)
@settings(max_examples=150, deadline=None)
def test_no_answer_speaks_after_it_was_cut_and_what_was_heard_adds_up(actions: list[tuple[str, int]]) -> None:
    """Each answer says its own level, also long after it is over; whatever is played must belong to answers that may be heard."""
    player = Player()
    answers, made = SpokenAnswers(player.output), list[SpokenAnswer]()
    allowed: set[int] = set()  # answers begun since the last interruption
    said: dict[int, float] = {}
    pushed: list[int] = []
    for action, number in actions:
        if action == "begin":
            made.append(answers.begin())
            allowed.add(len(made) - 1)
        elif action == "say" and made:
            index = len(made) - 1 - number % len(made)
            before = len(player.calls)
            made[index].say(np.full(4800, 0.01 * (index + 1), np.float32), 48000, index)
            if len(player.calls) > before:
                assert index in allowed and index == len(made) - 1  # only the newest one speaks
                said[index] = said.get(index, 0.0) + 0.1
                pushed.append(index)
        elif action == "end" and made:
            made[len(made) - 1 - number % len(made)].end()
        elif action == "play":
            heard = player.play(0.04 * number)
            levels = {round(float(x) * 100) - 1 for x in heard[::480] if abs(x) > 1e-3 and abs(x * 100 - round(float(x) * 100)) < 1e-2}
            assert levels <= allowed
        elif action in ("interrupt", "button"):
            since = player.since_s
            parts = answers.interrupt() if action == "interrupt" else answers.interrupted(player.interrupt())
            assert [p.part for p in parts] == list(dict.fromkeys(pushed))
            assert {p.part: p.said_s for p in parts} == pytest.approx(said)
            assert sum(p.heard_s for p in parts) == pytest.approx(since, abs=0.003)
            assert all(not b.heard_s or a.whole for a, b in itertools.pairwise(parts))  # heard in the order it was said
            allowed, said, pushed = set(), {}, []
            assert not player.queue.begun
    assert all(before == "say" for before, call in zip(["", *player.calls], player.calls, strict=False) if call == "end")


def test_more_than_may_wait_is_told_and_ends_the_answer() -> None:
    player = Player()
    answer = SpokenAnswers(player.output).begin()
    for _ in range(8):
        answer.say(np.zeros(24000 * 100, np.float32), 24000)
    assert player.calls == ["say"] * 6 + ["end"] and len(player.lines) == 1 and player.told("at most 600 s may wait")


TEXT = (
    "Dr. Smith paid 3.50 for it. Did he? \"Yes!\" said J. K. Rowling. It works, e.g. here... and there.\nA new line\n"
    "One without an end")
WHOLE = [
    "Dr. Smith paid 3.50 for it.", "Did he?", "\"Yes!\"", "said J. K. Rowling.", "It works, e.g. here...", "and there.", "A new line",
    "One without an end"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sentences_are_the_same_whatever_the_pieces(size: int) -> None:
    splitter, found = SentenceSplitter(), []
    for begin in range(0, len(TEXT), size):
        found += splitter.push(TEXT[begin : begin + size])
    assert found + splitter.flush() == WHOLE


@given(text=st.text(alphabet="ab .,!?\n\u3002", max_size=900), cuts=st.lists(st.integers(1, 50), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_no_word_is_lost_and_none_waits_for_ever(text: str, cuts: list[int]) -> None:
    splitter, found, at = SentenceSplitter(), [], 0
    while at < len(text):
        size = cuts[at % len(cuts)]
        found += splitter.push(text[at : at + size])
        at += size
        assert len(splitter._text) <= LONGEST
    found += splitter.flush()
    letters = [c for c in text if c in "ab"]
    assert [c for c in "".join(found) if c in "ab"] == letters
    assert all(len(s) <= LONGEST and any(c.isalnum() for c in s) for s in found)


def test_a_sentence_is_there_as_soon_as_the_next_begins() -> None:
    splitter = SentenceSplitter()
    assert splitter.push("Hello there.") == [] and splitter.push(" H") == ["Hello there."]
    assert splitter.push("ow are you?\n") == ["How are you?"]
    assert splitter.push("\u4f60\u597d\u3002\u6211") == ["\u4f60\u597d\u3002"]


def test_history_keeps_what_was_heard() -> None:
    history = ChatHistory("Be brief.")
    history.add("user", "Hi")
    message = history.add("assistant")
    message.sentences = [SaidSentence(text=t, complete=c) for t, c in (
        ("One two three four.", True), ("Five six seven eight.", True), ("Nine ten.", False), ("Never made.", False))]
    first, second, third, _ = message.sentences
    parts = [HeardPart(part=first, said_s=2.0, heard_s=2.0), HeardPart(part=second, said_s=2.0, heard_s=1.0),
             HeardPart(part=third, said_s=0.5, heard_s=0.0)]
    history.cut(message, parts)
    assert message.text == "One two three four. Five six"
    unheard = history.add("assistant")
    unheard.sentences = [SaidSentence(text="Nothing of it.")]
    history.cut(unheard, [])
    history.add("user", "What")
    history.add("user", "was that?")
    assert history.messages() == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "One two three four. Five six"}, {"role": "user", "content": "What\nwas that?"}]


def test_a_sentence_that_is_still_being_made_is_cut_by_the_clock() -> None:
    history = ChatHistory("")
    message = history.add("assistant")
    message.sentences = [SaidSentence(text="This sentence goes on for quite a long while and is not made to its end.")]
    history.cut(message, [HeardPart(part=message.sentences[0], said_s=1.0, heard_s=1.0)])
    assert message.text == "This sentence"


@pytest.mark.parametrize(("agent", "options", "field", "words"), [
    ("nobody", {}, "agent", "choose one of parrot, reader, openai-realtime, pipeline"),
    ("parrot", {"base_url": "http://x/v1"}, "--base-url", "the agent parrot does not use it"),
    ("reader", {"voice": "alloy"}, "--voice", "does not use it"),
    ("openai-realtime", {"tts_model": "x"}, "--tts-model", "does not use it"),
    ("openai-realtime", {"base_url": "localhost:8000"}, "--base-url", "use http://host:port/v1"),
    ("openai-realtime", {"base_url": "http://[::1"}, "--base-url", "no address"),
    ("pipeline", {"stt_url": "ftp://x"}, "--stt-url", "no address"),
    ("pipeline", {"model": "  "}, "--model", "is empty"),
])
def test_options_that_do_not_fit_are_one_line(agent: str, options: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        agent_named(agent, AgentOptions(**options))
    assert refused.value.field == field


@pytest.mark.parametrize(("agent", "package"), [("openai-realtime", "openai"), ("pipeline", "openai")])
def test_openais_own_servers_need_a_key(agent: str, package: str) -> None:
    for name in (package, "silero_vad"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra agents)")
    with pytest.raises(InputError, match="set it, or name") as refused:
        agent_named(agent, AgentOptions(model="m"))
    assert refused.value.field == "OPENAI_API_KEY"
    assert "secret" not in repr(AgentOptions(key="secret"))
    agent_named(agent, AgentOptions(model="m", key="secret"))


def test_a_pipeline_needs_the_chats_model() -> None:
    pytest.importorskip("openai", reason="openai is not installed (extra agents)")
    pytest.importorskip("silero_vad", reason="silero-vad is not installed (extra agents)")
    with pytest.raises(InputError, match="is not named") as refused:
        agent_named("pipeline", AgentOptions(base_url="http://x/v1"))
    assert refused.value.field == "--model"


@pytest.mark.parametrize("name", ["reader", "openai-realtime", "pipeline"])
def test_a_missing_package_is_told_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"is not installed|are not installed") as refused:
        agent_named(name, AgentOptions(key="k") if name == "reader" else AgentOptions(model="m", key="k"))
    assert "pip install 'talking-machines[agents]'" in refused.value.remedy


def test_the_network_hears_speech_and_not_doors(assets: Path) -> None:
    pytest.importorskip("silero_vad", reason="silero-vad is not installed (extra agents)")
    from tm_core.live.voice_detector import VoiceDetector, load_silero

    rng, network = np.random.default_rng(0), load_silero()
    speech = read_audio(next((assets / "speech").glob("*.wav"))).samples[: 16000 * 3]
    room = (0.001 * rng.standard_normal(16000 * 8)).astype(np.float32)
    room[32000 : 32000 + len(speech)] += speech
    knocks = (0.001 * rng.standard_normal(16000 * 8)).astype(np.float32)
    for at in range(16000, 16000 * 7, 6000):
        knocks[at : at + 1600] += 0.5 * np.exp(-np.arange(1600) / 200) * rng.standard_normal(1600)
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16000 * 4) / 16000)).astype(np.float32)

    def turns(sound: np.ndarray, size: int = 320) -> list[tuple[str, float]]:
        detector = VoiceDetector(network)
        return [(turn, begin / 16000) for begin in range(0, len(sound), size) for turn in detector.push(sound[begin : begin + size])]

    found = turns(room)
    assert [t for t, _ in found] in (["began", "ended"], ["began", "ended"] * 2), found
    assert 1.9 < found[0][1] < 2.7 and 4.9 < found[-1][1] < 6.2
    assert [t for t, _ in turns(room, 7777)] == [t for t, _ in found]
    assert turns(knocks) == [] and turns(tone) == [] and turns(np.zeros(32000, np.float32)) == []


def test_choosing_the_pipeline_leaves_torchs_threads_alone() -> None:
    """Importing the network's package would set them to one for the whole process."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra data or agents)")
    import subprocess
    import sys

    code = (
        "import torch; torch.set_num_threads(2)\nfrom tm_core.live.voice_detector import load_silero\n"
        "from tm_core.errors import InputError\ntry: load_silero()\nexcept InputError: print('missing')\nprint(torch.get_num_threads())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if "missing" in done.stdout:
        pytest.skip("silero-vad is not installed (extra agents)")
    assert io.StringIO(done.stdout).readlines() == ["2\n"]
