"""TM_ScoreVideo in a real ComfyUI: a stream, a file, images; its numbers, its text, and what it cannot judge."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity.comfyui import Host, Job
from tm_core.media.video_io import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
IMAGE, AUDIO, DECODER, SCORE = "2", "3", "8", "20"
SHOWN = {"sync_c": 1, "sync_d": 2, "offset": 3, "speaker": 4}


@pytest.fixture(scope="module")
def portrait(assets: Path) -> Path:
    return assets / "portraits" / "demo.jpg"


@pytest.fixture(scope="module")
def speech(host: Host, assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the bundled recording, uploaded."""
    path = tmp_path_factory.mktemp("score") / "two_seconds.wav"
    with wave.open(str(next((assets / "speech").glob("*.wav")))) as source, wave.open(str(path), "wb") as out:
        out.setparams(source.getparams())
        out.writeframes(source.readframes(2 * source.getframerate()))
    host.upload(path)
    return path


def scored(video: list[Any], **inputs: Any) -> Graph:
    """TM_ScoreVideo of a link, and its numbers shown as text."""
    shown = {str(30 + i): {"class_type": "PreviewAny", "inputs": {"source": [SCORE, i]}} for i in SHOWN.values()}
    return {SCORE: {"class_type": "TM_ScoreVideo", "inputs": {"video": video, **inputs}}} | shown


def text(job: Job, node: str) -> str:
    assert job.status == "success", job.error
    return str(job.history["outputs"][node]["text"][0])


def numbers(job: Job) -> dict[str, float]:
    return {name: float(text(job, str(30 + i))) for name, i in SHOWN.items()}


def images(host: Host, portrait: Path, count: int) -> Graph:
    """The portrait, `count` times."""
    return {
        IMAGE: {"class_type": "LoadImage", "inputs": {"image": host.upload(portrait)}},
        "4": {"class_type": "ImageScale", "inputs": {
            "image": [IMAGE, 0], "upscale_method": "bilinear", "width": 160, "height": 160, "crop": "center"}},
        "5": {"class_type": "RepeatImageBatch", "inputs": {"image": ["4", 0], "amount": count}},
    }  # fmt: skip


def test_a_stream_brings_its_own_sound(host: Host, portrait: Path, speech: Path) -> None:
    graph: Graph = json.loads((ROOT / "workflows" / "api" / "portrait.json").read_text())
    graph[IMAGE]["inputs"]["image"], graph[AUDIO]["inputs"]["audio"] = host.upload(portrait), speech.name
    made = {key: graph[key] for key in map(str, range(1, 9))} | scored([DECODER, 0])
    job = host.run(made)
    found, report = numbers(job), text(job, SCORE)
    assert report.startswith("1 face, 2.0 s, 400x400 at 25 frames/s\nface 0 at (")
    assert f"Sync-C {found['sync_c']:.2f}, Sync-D {found['sync_d']:.2f}" in report
    assert found["sync_c"] > 0.3 and abs(found["offset"]) <= 15
    assert job.of("progress")[-1].data["value"] == 50


def test_a_composed_stream_is_judged_as_well(host: Host, portrait: Path, speech: Path) -> None:
    """A face put back into its picture, as Scene and Canvas are: it was refused, as no stream at all."""
    graph: Graph = json.loads((ROOT / "workflows" / "api" / "portrait.json").read_text())
    graph[IMAGE]["inputs"]["image"], graph[AUDIO]["inputs"]["audio"] = host.upload(portrait), speech.name
    (face,) = (key for key, node in graph.items() if node["class_type"] == "TM_FaceMask")
    back = {"class_type": "TM_PasteBack", "inputs": {"frames": [DECODER, 0], "image": [IMAGE, 0], "portrait": [face, 0]}}
    job = host.run({key: graph[key] for key in map(str, range(1, 9))} | {"11": back} | scored(["11", 0]))
    with Image.open(portrait) as picture:
        assert text(job, SCORE).startswith(f"1 face, 2.0 s, {picture.width}x{picture.height} at 25 frames/s")
    assert numbers(job)["sync_c"] > 0.3


def test_a_file_is_judged_as_the_command_line_does(host: Host, portrait: Path, speech: Path, tmp_path: Path) -> None:
    from tm_core.cli.score_files import score_file

    picture = np.asarray(Image.open(portrait).convert("RGB").resize((160, 160)))
    path = tmp_path / "two faces.mp4"
    with VideoWriter(path, 320, 160, 25, audio=speech) as writer:
        writer.write(np.repeat(np.concatenate([picture, picture[:, ::-1]], 1)[None], 50, 0))
    job = host.run({"1": {"class_type": "LoadVideo", "inputs": {"file": host.upload(path)}}} | scored(["1", 0]))
    mine, found = score_file(path), numbers(job)
    assert text(job, SCORE).startswith("2 faces, 2.0 s, 320x160") and len(mine["faces"]) == 2
    assert found["speaker"] == (-1 if mine["speaker"] is None else mine["speaker"])
    assert any(face["sync_c"] == pytest.approx(found["sync_c"], rel=1e-3) for face in mine["faces"])


def test_images_and_a_sound(host: Host, portrait: Path, speech: Path) -> None:
    graph = images(host, portrait, 40) | {AUDIO: {"class_type": "LoadAudio", "inputs": {"audio": speech.name}}}
    given = host.run(graph | scored(["5", 0], audio=[AUDIO, 0], fps=20.0))
    assert "2.0 s, 160x160 at 20 frames/s" in text(given, SCORE)
    created = {"6": {"class_type": "CreateVideo", "inputs": {"images": ["5", 0], "audio": [AUDIO, 0], "fps": 20.0}}}
    assert numbers(host.run(graph | created | scored(["6", 0]))) == numbers(given)


@pytest.mark.parametrize(
    ("count", "sounding", "words"), [(40, False, ("audio", "no sound")), (8, True, ("video", "too short to judge"))],
    ids=["silent", "short"])
def test_what_cannot_be_judged_says_why(
    host: Host, portrait: Path, speech: Path, count: int, sounding: bool, words: tuple[str, ...],
) -> None:
    graph = images(host, portrait, count) | {AUDIO: {"class_type": "LoadAudio", "inputs": {"audio": speech.name}}}
    job = host.run(graph | scored(["5", 0], **({"audio": [AUDIO, 0]} if sounding else {})))
    assert job.status == "error" and not [w for w in words if w not in job.error], job.error
    assert ";" in job.error and "\n" not in job.error.strip()
