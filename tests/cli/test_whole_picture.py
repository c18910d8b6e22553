"""The video is the whole picture, at its size, with one face of it talking."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from tm_core.cli.commands import app as cli
from tm_core.media import probe, read_frames
from tm_core.media.audio_io import read_audio
from tm_core.media.image_io import open_image


def test_one_of_two_faces_talks_and_the_rest_of_the_picture_stays(assets: Path, tmp_path: Path) -> None:
    picture, out = assets / "portraits" / "group.jpg", tmp_path / "group.mp4"
    sound = next((assets / "speech").glob("*.wav"))
    done = CliRunner().invoke(cli, [
        "animate", "--image", str(picture), "--face", "1", "--audio", str(sound), "--out", str(out), "--quiet"])
    assert done.exit_code == 0, done.output
    height, width = open_image(picture).shape[:2]
    found = probe(out)
    assert (found.width, found.height) == (width, height) and found.audio_s is not None
    frames = np.stack([frame for _, frame in zip(range(60), read_frames(out)[1], strict=False)]).astype(np.float32)
    moved = np.abs(np.diff(frames, axis=0)).mean((0, 3))
    left, right = moved[:, : width // 2], moved[:, width // 2 :]
    assert right.max() > 4 and left[:, : width // 3].max() < 1.5  # H.264 alone moves pixels a little


def test_a_large_picture_of_odd_sides_keeps_its_size_but_for_a_column_and_a_row(assets: Path, tmp_path: Path) -> None:
    """H.264 has even sides: the last column and row stand twice, and the report says the size of the file."""
    picture, sound, out, report = (tmp_path / name for name in ("a.png", "a.wav", "a.mp4", "a.json"))
    Image.open(assets / "portraits" / "demo.jpg").resize((2401, 2303)).save(picture, compress_level=1)
    samples = read_audio(next((assets / "speech").glob("*.wav"))).samples[:3200]
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    done = CliRunner().invoke(cli, [
        "animate", "--image", str(picture), "--audio", str(sound), "--out", str(out), "--report", str(report), "--size", "2401",
        "--quiet"])
    assert done.exit_code == 0, done.output
    found, told = probe(out), json.loads(report.read_text())
    assert (found.width, found.height) == (2402, 2304) == (told["width"], told["height"])
    frame = next(read_frames(out)[1]).astype(int)
    assert np.abs(frame[:, -1] - frame[:, -2]).max() < 12 and np.abs(frame[-1] - frame[-2]).max() < 12
