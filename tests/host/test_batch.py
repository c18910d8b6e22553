"""Batch Lipsync in a real ComfyUI: a manifest, folders, interrupted and queued again, bad input."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.comfyui import Host, HostError, Job
from tm_core.config import tiny
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import save_model

Graph = dict[str, Any]
MODEL, BATCH, REPORT, SOUND = "1", "2", "3", "4"
INPUTS = {
    "output_folder": "batch/a", "manifest": "", "portraits": "", "sounds": "", "seed": 0, "steps": 0, "mode": "auto", "retry_failed": False}


@pytest.fixture(scope="module")
def material(host: Host, assets: Path) -> Path:
    """In the input folder: three portraits, a sound for each, and a model file."""
    torch.manual_seed(7)
    config = tiny()
    assert config.projector is not None and config.vae is not None
    model = TalkingModel(config=config, dit=TalkingDiT(config.dit), projector=AudioProjector(config.projector), vae=TinyVAE(config.vae))
    save_model(model, host.models_dir / "batch.safetensors")
    faces, voices = host.input_dir / "faces", host.input_dir / "voices"
    faces.mkdir()
    voices.mkdir()
    for number, name in enumerate(("anna", "ben", "cleo"), 1):
        shutil.copy(assets / "portraits" / "demo.jpg", faces / f"{name}.jpg")
        write_tone(voices / f"{name}.wav", 0.2 * number)
    write_tone(host.input_dir / "tone.wav", 0.4)
    return host.input_dir


def write_tone(path: Path, seconds: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 170 * np.arange(round(seconds * 16000)) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((tone * 32767).astype("<i2").tobytes())


def graph(*, audio: bool = False, **inputs: Any) -> Graph:
    made: Graph = {
        MODEL: {"class_type": "TM_LoadModel", "inputs": {"weights": "batch.safetensors", "device": "auto", "dtype": "auto"}},
        BATCH: {"class_type": "TM_BatchLipsync", "inputs": {"model": [MODEL, 0], **INPUTS, **inputs}},
        REPORT: {"class_type": "PreviewAny", "inputs": {"source": [BATCH, 0]}}}
    if audio:
        made[SOUND] = {"class_type": "LoadAudio", "inputs": {"audio": "tone.wav"}}
        made[BATCH]["inputs"]["audio"] = [SOUND, 0]
    return made


def report_of(job: Job) -> dict[str, Any]:
    assert job.status == "success", job.error
    found: dict[str, Any] = json.loads(job.history["outputs"][REPORT]["text"][0])
    return found


def made(host: Host, folder: str) -> dict[str, int]:
    """Files below an output folder and when they were written."""
    place = host.output_dir / folder
    return {p.relative_to(place).as_posix(): p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}


def test_a_folder_of_portraits_with_sounds_of_the_same_name(host: Host, material: Path) -> None:
    job = host.run(graph(portraits="faces", sounds="voices", output_folder="batch/pairs"))
    report = report_of(job)
    assert (report["done"], report["failed"], report["video_s"]) == (3, 0, 1.2)
    files = made(host, "batch/pairs")
    assert set(files) == {"anna.mp4", "ben.mp4", "cleo.mp4", "ledger.jsonl", "report.json"}
    progress = job.of("progress")
    assert progress[-1].data["value"] == progress[-1].data["max"] == 3 and job.previews
    again = report_of(host.run(graph(portraits="faces", sounds="voices", output_folder="batch/pairs")))
    assert (again["done"], again["done_now"]) == (3, 0)
    after = made(host, "batch/pairs")
    assert all(after[name] == files[name] for name in ("anna.mp4", "ben.mp4", "cleo.mp4"))


def test_one_sound_for_all_portraits(host: Host, material: Path) -> None:
    assert report_of(host.run(graph(portraits="faces", output_folder="batch/one", audio=True)))["video_s"] == 1.2
    assert report_of(host.run(graph(portraits="faces", output_folder="batch/one", audio=True)))["done_now"] == 0
    assert not list((host.base / "temp").glob("tm_sound_*"))


def test_a_manifest_with_a_failure_isolated_and_retried(host: Host, material: Path) -> None:
    text = "image,audio,out,seed\nfaces/anna.jpg,voices/anna.wav,x/a.mp4,1\ntone.wav,tone.wav,b.mp4,\nfaces/ben.jpg,tone.wav,c.mp4,2"
    queued = graph(manifest=text, output_folder="batch/manifest")
    for retry, failed_again in ((False, 0), (False, 0), (True, 1)):
        queued[BATCH]["inputs"]["retry_failed"] = retry
        report = report_of(host.run(queued))
        assert (report["done"], report["failed"], report["failures"][0]["line"]) == (2, 1, 3)
        lines = [json.loads(line) for line in (host.output_dir / "batch/manifest/ledger.jsonl").read_text().splitlines()]
        assert sum(line["state"] == "failed" for line in lines) == 1 + failed_again
    assert {"x/a.mp4", "c.mp4"} < set(made(host, "batch/manifest"))


def test_interrupted_and_queued_again(host: Host, material: Path) -> None:
    rows = "".join(f"faces/anna.jpg,tone.wav,{i}.mp4,{i}\n" for i in range(7))
    queued = graph(manifest="image,audio,out,seed\n" + rows, output_folder="batch/stop")
    job = host.run(queued, interrupt_at="preview", interrupt_after=3)
    assert job.of("execution_interrupted") and not job.error, (job.status, job.error, [e.kind for e in job.events], host.log())
    before = {name: t for name, t in made(host, "batch/stop").items() if name.endswith(".mp4")}
    assert 0 < len(before) < 7 and not (host.output_dir / "batch/stop/.batch").exists()
    report = report_of(host.run(queued))
    assert (report["done"], report["done_now"]) == (7, 7 - len(before))
    after = made(host, "batch/stop")
    assert all(after[name] == t for name, t in before.items())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"manifest": "image,audio,out\nno.jpg,tone.wav,a.mp4\nfaces/anna.jpg,tone.wav,b.avi"}, ("line 2", "no.jpg", "line 3", ".mp4")),
        ({"manifest": "image,audio,out\n../../etc/hosts,tone.wav,a.mp4"}, ("line 2", "outside the input folder")),
        ({"manifest": "image,audio,out\nfaces/anna.jpg,tone.wav,a.mp4", "portraits": "faces"}, ("manifest", "either")),
        ({"portraits": "/", "sounds": "voices"}, ("portraits", "outside the input folder")),
        ({"portraits": "faces"}, ("sounds", "audio")),
        ({"portraits": "voices", "sounds": "voices"}, ("portraits", "no pictures")),
        ({}, ("portraits", "manifest")),
        ({"portraits": "faces", "sounds": "voices", "output_folder": "../elsewhere"}, ("output_folder", "outside the output folder")),
        ({"portraits": "faces", "sounds": "voices", "output_folder": ""}, ("output_folder", "of its own")),
        ({"portraits": "faces\0", "sounds": "voices"}, ("portraits", "character")),
        ({"portraits": "faces", "sounds": "voices", "output_folder": "D:out"}, ("output_folder", "drive")),
        ({"manifest": "image,audio,out\nfaces/anna.jpg,tone.wav,../a.mp4"}, ("out", "not below the output folder")),
    ], ids=["lines", "escape", "both", "root", "no-sound", "no-pictures", "nothing", "out-escape", "out-itself", "nul", "drive",
            "item-escape"])  # fmt: skip
def test_bad_input_names_the_field_and_makes_nothing(host: Host, material: Path, inputs: dict[str, Any], words: tuple[str, ...]) -> None:
    before = {p for p in host.output_dir.rglob("*") if p.is_file()}
    try:
        said = host.run(graph(**{"output_folder": "batch/bad", **inputs})).error
    except HostError as refused:
        said = str(refused)
    assert not [word for word in words if word not in said], said
    assert {p for p in host.output_dir.rglob("*") if p.is_file()} == before
