"""`score` on real files: a talking video, another sound, and what cannot be measured."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tm_core.media.audio_io import read_audio
from tm_core.media.video_io import VideoWriter

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def clip(portrait: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of the bundled portrait, which does not move, with the bundled speech."""
    path = tmp_path_factory.mktemp("score") / "still.mp4"
    picture = np.asarray(Image.open(portrait).convert("RGB").resize((256, 256)))
    sound = read_audio(speech)
    with VideoWriter(path, 256, 256, 25, audio=type(sound)(samples=sound.samples[:48000])) as writer:
        for _ in range(75):
            writer.write(picture[None])
    return path


def test_a_still_face_does_not_drift_and_does_not_speak(cli: Run, clip: Path) -> None:
    done = cli("score", clip)
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score["face_found"] == 1.0 and score["frames"] == 75
    assert score["drift"]["worst_change"] < 0.05
    assert score["sync"]["peak_r"] < 0.6


def test_another_sound_can_be_given(cli: Run, clip: Path, second: Path) -> None:
    done = cli("score", clip, "--audio", second, "--seconds", "1.5")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["audio_s"] == pytest.approx(1.0)


def test_a_silent_film_is_measured_without_sync(cli: Run, portrait: Path, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    picture = np.asarray(Image.open(portrait).convert("RGB").resize((192, 192)))
    with VideoWriter(path, 192, 192, 25) as writer:
        writer.write(np.repeat(picture[None], 10, 0))
    done = cli("score", path)
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score["sync"] is None and score["notes"]


@pytest.mark.parametrize("content", ["missing", "noise", "no-face"])
def test_what_is_no_video_of_a_face_is_one_line(cli: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.mp4"
    if content == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif content == "no-face":
        with VideoWriter(path, 128, 128, 25) as writer:
            writer.write(np.full((3, 128, 128, 3), 90, np.uint8))
    done = cli("score", path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: video: ")


def test_a_face_and_who_speaks_are_reported(cli: Run, clip: Path, second: Path) -> None:
    done = cli("score", clip, "--audio", second, "--audio", clip, "--seconds", "2")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert len(score["faces"]) == 1 and score["audio"] == [str(second), str(clip)]
    face = score["faces"][0]
    assert face["judged_s"] == pytest.approx(2.0, abs=0.1) and len(face["audios"]) == 2 and face["sync_c"] < 0.8
    assert any("--seconds 0" in note for note in score["notes"])


def test_a_folder_becomes_a_table(cli: Run, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "still.MP4").write_bytes(clip.read_bytes())
    (folder / "broken.mp4").write_bytes(bytes(range(256)) * 20)
    (folder / "notes.txt").write_text("no video")
    out = tmp_path / "scores.csv"
    done = cli("score", folder, "--csv", out, "--seconds", "1.5")
    assert done.returncode == 1, done.stderr  # some failed
    assert json.loads(done.stdout) == {"folder": str(folder), "videos": 2, "failed": 1, "csv": str(out)}
    assert "1 of 2 broken.mp4: video: " in done.stderr and "2 of 2 " in done.stderr
    with out.open(newline="") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"broken.mp4", str(Path("deep", "still.MP4"))}
    assert "cannot be read" in rows["broken.mp4"]["error"] and not rows["broken.mp4"]["sync_c"]
    good = rows[str(Path("deep", "still.MP4"))]
    assert not good["error"] and float(good["sync_c"]) < 0.8 and good["faces"] == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "videos"]


@pytest.mark.parametrize("case", ["folder-without-csv", "no-video", "csv-in-no-folder", "csv-is-folder", "sound-for-a-table", "seconds"])
def test_bad_tables_are_one_line(cli: Run, clip: Path, tmp_path: Path, case: str) -> None:
    arguments = {
        "folder-without-csv": [tmp_path], "no-video": [tmp_path, "--csv", tmp_path / "a.csv"],
        "csv-in-no-folder": [clip, "--csv", tmp_path / "none" / "a.csv"], "csv-is-folder": [clip, "--csv", tmp_path],
        "sound-for-a-table": [clip, "--csv", tmp_path / "a.csv", "--audio", clip], "seconds": [clip, "--seconds", "-1"],
    }[case]  # fmt: skip
    done = cli("score", *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and ";" in done.stderr and not list(tmp_path.iterdir())
