"""Timelines, split conversations and schedule pictures in a real ComfyUI, by the graph that ships."""

from __future__ import annotations

import json
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from parity.comfyui import Host, HostError, Job

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
MODEL, AUDIO, ENCODER, SPEAKER = "1", "3", "5", "6"
RTTM = "SPEAKER talk 1 0.0 0.6 <NA> <NA> ann <NA> <NA>\nSPEAKER talk 1 0.6 1.4 <NA> <NA> bob <NA> <NA>\n"
RATE = 22050


@pytest.fixture(scope="module")
def graph(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The shipped graph on two seconds of stereo sound."""
    made: Graph = json.loads((ROOT / "workflows" / "api" / "portrait.json").read_text())
    path = tmp_path_factory.mktemp("sounds") / "two_seconds.wav"
    tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.repeat(tone[:, None], 2, 1) * 32767).astype("<i2").tobytes())
    made[AUDIO]["inputs"]["audio"] = host.upload(path)
    return {key: made[key] for key in (MODEL, AUDIO, ENCODER)}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def conversation(graph: Graph, **inputs: Any) -> Graph:
    """Both sounds of a conversation and its picture, saved."""
    return {key: graph[key] for key in (AUDIO,)} | {
        "20": node("TM_Conversation", **{"audio": [AUDIO, 0], "timeline": "0-0.6 ann, 0.6- bob", "names": "", **inputs}),
        "21": node("SaveAudio", audio=["20", 0], filename_prefix="talk/one"),
        "22": node("SaveAudio", audio=["20", 1], filename_prefix="talk/two"),
        "23": node("SaveImage", images=["20", 4], filename_prefix="talk/picture"),
    }


def heard(host: Host, job: Job) -> dict[str, np.ndarray]:
    """Saved sounds (C, n) in -1..1 by the name of their file, without its counter."""
    assert job.status == "success", (job.error, host.log())
    sounds = {}
    for file in job.files("audio"):
        with av.open(BytesIO(host.view(file))) as container:
            stream = container.streams.audio[0]
            frames = [f.to_ndarray() for f in container.decode(stream)]
            packed = np.concatenate([f.reshape(-1, 2) if f.shape[0] == 1 else f.T for f in frames])
        scale = float(np.iinfo(packed.dtype).max) if packed.dtype.kind == "i" else 1.0
        sounds[file["filename"].split("_")[0]] = packed.T / scale
    return sounds


def picture(host: Host, job: Job) -> np.ndarray:
    assert job.status == "success", (job.error, host.log())
    with Image.open(BytesIO(host.view(job.files("images")[0]))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("timeline", ["0-0.6 ann, 0.6- bob", RTTM, "talk.rttm"], ids=["timeline", "rttm", "file"])
def test_a_conversation_comes_apart(host: Host, graph: Graph, timeline: str) -> None:
    (host.input_dir / "talk.rttm").write_text(RTTM)
    job = host.run(conversation(graph, timeline=timeline, names="bob, ann"))
    sounds, cut = heard(host, job), round(0.6 * RATE)
    assert {key: value.shape for key, value in sounds.items()} == {"one": (2, 2 * RATE), "two": (2, 2 * RATE)}
    bob, ann = sounds["one"], sounds["two"]
    assert np.abs(bob[:, :cut]).max() < 1e-3 and np.abs(ann[:, cut:]).max() < 1e-3
    assert np.abs(bob[:, cut:]).max() > 0.25 and np.abs(ann[:, :cut]).max() > 0.25
    assert picture(host, job).shape[1] == 1024


def test_a_file_that_was_replaced_is_read_again(host: Host, graph: Graph) -> None:
    (host.input_dir / "again.rttm").write_text(RTTM)
    first = picture(host, host.run(conversation(graph, timeline="again.rttm")))
    (host.input_dir / "again.rttm").write_text(RTTM.replace("0.0 0.6", "0.0 0.3"))
    assert not np.array_equal(first, picture(host, host.run(conversation(graph, timeline="again.rttm"))))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"timeline": "0-1 ann, 2-1 bob"}, "2-1 bob"),
        ({"timeline": ""}, "names no turn"),
        ({"names": "ann"}, "nobody is bob"),
        ({"names": "ann, bob, eve"}, "eve: has no turn; the timeline names ann, bob"),
        ({"timeline": "0-0.6 ann, 5- bob"}, "5- bob: begins when the sound is over"),
        ({"timeline": "0-1 a + b + c + d + e"}, "5 speakers, this node has 4 outputs"),
        ({"timeline": "../secret.rttm"}, "points outside the input folder"),
    ],
    ids=["backwards", "empty", "one name", "unknown name", "after the sound", "five", "outside the folder"])
def test_what_does_not_match_is_said(host: Host, graph: Graph, inputs: dict[str, str], said: str) -> None:
    job = host.run(conversation(graph, **inputs))
    assert job.status != "success" and said in job.error


def test_an_output_without_a_speaker_stops_what_is_connected_to_it(host: Host, graph: Graph) -> None:
    job = host.run(conversation(graph, timeline="0- ann"))
    assert "1 speakers (ann): connect no more audio outputs" in job.error
    assert {file["filename"].split("_")[0] for file in job.files("audio")} == {"one"}


def test_others_may_be_left_out(host: Host, graph: Graph) -> None:
    made = conversation(graph, names="ann", leave_others_out=True)
    del made["22"]
    sounds = heard(host, host.run(made))
    assert np.abs(sounds["one"][:, round(0.6 * RATE) :]).max() < 1e-3


def test_timelines_of_a_conversation_draw_its_picture(host: Host, graph: Graph) -> None:
    """Each voice through encoder and timeline by the turns that the split hands on, then the picture of both."""
    made = conversation(graph)
    for key in ("21", "22", "23"):
        del made[key]
    made[MODEL] = graph[MODEL]
    for i, name in enumerate(("ann", "bob")):
        made[f"3{i}"] = node("TM_AudioEncoder", model=[MODEL, 0], audio=["20", i])
        made[f"4{i}"] = node("TM_SpeakingTimeline", audio_windows=[f"3{i}", 0], timeline=["20", 5], name=name, silence="real")
    made["50"] = node("TM_SchedulePicture", names="Ann, Bob", width=800, speaker_1=["40", 0], speaker_3=["41", 0])
    made["51"] = node("SaveImage", images=["50", 0], filename_prefix="talk/both")
    drawn = picture(host, host.run(made))
    ann, bob = (np.flatnonzero((drawn == colour).all(2).any(0)) for colour in ((31, 119, 180), (214, 96, 32)))
    assert drawn.shape[1] == 800 and abs(int(ann.max()) - int(bob.min())) <= 3 and np.ptp(bob) > 1.5 * np.ptp(ann)
    made["50"]["inputs"]["names"] = "Ann, Bob, Eve"
    assert "3 names and 2 connected speakers" in host.run(made).error
    made["50"] = node("TM_SchedulePicture", names="", width=800)
    assert "connect a speaker" in host.run(made).error


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({"silence_db": -20.0}, "silence_db"), ({"levels": "loud"}, "levels"), ({"silence": "none"}, "silence")], ids=lambda v: str(v))
def test_speaking_silence_says_what_cannot_be(host: Host, graph: Graph, inputs: dict[str, Any], said: str) -> None:
    """Hosts differ in who says so: the queue, or the node."""
    made = graph | {
        "6": node("TM_SpeakingSilence", **{
            "audio_windows": [ENCODER, 0], "mode": "auto", "speech_db": -28.0, "silence_db": -34.0, "shortest_pause_s": 0.3, **inputs}),
        "7": node("TM_SchedulePicture", names="", width=800, speaker_1=["6", 0]),
        "8": node("SaveImage", images=["7", 0], filename_prefix="talk/x"),
    }
    try:
        said_by_node = host.run(made).error
    except HostError as refused:
        said_by_node = str(refused)
    assert said in said_by_node
