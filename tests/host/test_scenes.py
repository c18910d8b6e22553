"""The shipped graphs of several faces in a real ComfyUI: group photo, conversation, panel, batch, score."""

from __future__ import annotations

import json
import shutil
import wave
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from parity.comfyui import Host, Job
from tm_core.media import read_frames
from tm_core.media.video_io import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def files(host: Host, assets: Path) -> Path:
    """What the graphs name, in the input folder; the recording they name too."""
    for picture in (assets / "portraits").glob("*.jpg"):
        host.upload(picture)
    sound = next((assets / "speech").glob("*.wav"))
    host.upload(sound)
    (host.input_dir / "portraits").mkdir(exist_ok=True)
    for name in ("demo", "second"):
        shutil.copy(assets / "portraits" / f"{name}.jpg", host.input_dir / "portraits")
    return sound


def beginning(host: Host, whole: Path, seconds: float) -> str:
    """The first seconds of a recording, in the input folder."""
    path = host.base / f"{seconds:.1f} seconds.wav"
    with wave.open(str(whole)) as source, wave.open(str(path), "wb") as out:
        out.setparams(source.getparams())
        out.writeframes(source.readframes(round(seconds * source.getframerate())))
    return host.upload(path)


@pytest.fixture(scope="module")
def short(host: Host, files: Path) -> str:
    """Two seconds."""
    return beginning(host, files, 2.0)


@pytest.fixture(scope="module")
def turns(host: Host, files: Path) -> str:
    """Four seconds, for faces that take turns."""
    return beginning(host, files, 4.0)


def shipped(name: str, sound: str | None = None) -> Graph:
    """A graph as it ships, or with another sound."""
    made: Graph = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    for node in made.values():
        if node["class_type"] == "TM_PreviewStream":
            node["inputs"]["real_time"] = False
        if sound is not None and node["class_type"] == "LoadAudio":
            node["inputs"]["audio"] = sound
    return made


def video_of(host: Host, job: Job) -> tuple[np.ndarray, int]:
    """Frames of the one mp4, and the channels of its sound."""
    assert job.status == "success", (job.error, host.log())
    file, = (f for f in job.files() if f["filename"].endswith(".mp4"))
    with av.open(BytesIO(host.view(file))) as container:
        channels = container.streams.audio[0].channels
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), channels


def motion(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean())


def test_one_face_of_a_group_photo_talks(host: Host, files: Path, short: str) -> None:
    frames, _ = video_of(host, host.run(shipped("group_photo", short)))
    assert frames.shape == (50, 400, 400, 3)
    assert motion(frames[:, :, 220:320]) > 4 * motion(frames[:, :, :120])


def test_two_faces_take_turns(host: Host, turns: str) -> None:
    """Whose half it is moves more; the voices come from two sides."""
    graph = shipped("conversation", turns)
    split, = (node["inputs"] for node in graph.values() if node["class_type"] == "TM_Conversation")
    split["timeline"] = split["timeline"].replace("3.4", "2.0")
    frames, channels = video_of(host, host.run(graph))
    assert frames.shape == (100, 400, 400, 3) and channels == 2
    left, right = frames[:, 150:220, 90:180], frames[:, 150:220, 230:310]
    first, second = slice(5, 45), slice(55, 95)
    assert motion(left[first]) > 1.5 * motion(left[second]) and motion(right[second]) > 1.5 * motion(right[first])


def test_four_portraits_on_one_canvas(host: Host, turns: str) -> None:
    graph = shipped("panel_of_four", turns)
    for node in graph.values():
        if node["class_type"] == "TM_SpeakingTimeline":  # two seconds each as it ships, here one
            said = node["inputs"]["timeline"]
            node["inputs"]["timeline"] = said.translate(str.maketrans("246", "123"))
    frames, _ = video_of(host, host.run(graph))
    assert frames.shape == (100, 512, 512, 3)
    places = [(0, 0), (0, 256), (256, 0), (256, 256)]
    for turn, (y, x) in enumerate(places):
        mouths = frames[:, y + 140 : y + 220, x + 80 : x + 180]
        parts = [motion(mouths[25 * i + 5 : 25 * i + 21]) for i in range(4)]
        assert np.argmax(parts) == turn


def test_a_folder_of_portraits_is_made_and_made_once(host: Host, files: Path, short: str) -> None:
    graph = shipped("batch_portraits", short)
    job = host.run(graph)
    assert job.status == "success", (job.error, host.log())
    made = {path.name: path.stat().st_mtime_ns for path in (host.output_dir / "batch" / "talking").glob("*.mp4")}
    assert set(made) == {"demo.mp4", "second.mp4"}
    host.forget_cache()
    assert host.run(graph).status == "success"
    assert {path.name: path.stat().st_mtime_ns for path in (host.output_dir / "batch" / "talking").glob("*.mp4")} == made


def test_a_video_is_scored(host: Host, files: Path) -> None:
    """Two seconds of the clip that the graph names."""
    clip = ROOT / "tm_core" / "assets" / "clips" / "talking.mp4"
    with VideoWriter(host.input_dir / clip.name, 128, 128, 25, audio=clip) as video:
        video.write(np.stack(list(islice(read_frames(clip)[1], 50))))
    job = host.run(shipped("score_video"))
    assert job.status == "success", (job.error, host.log())
    assert "Sync-C" in json.dumps(job.history["outputs"])
