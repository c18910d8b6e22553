"""`animate` as a user runs it, on real files: what works, what is refused, what is left behind.

The main job, its repetition, names and signals in a process of their own (cli_process), the rest in this one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tm_core.media import read_frames

Run = Callable[..., subprocess.CompletedProcess[str]]
MakeWav = Callable[..., Path]


def tracks(path: Path) -> tuple[float, float, int]:
    """Duration of picture and of sound in seconds, and the number of frames that really decode."""
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        frames = sum(1 for _ in file.decode(video))
        assert video.codec_context.name == "h264" and audio.codec_context.name == "aac"
        assert audio.duration is not None
        return frames / float(video.average_rate or 1), float(audio.duration * audio.time_base), frames


def pixels(path: Path) -> np.ndarray:
    _, frames = read_frames(path)
    return np.stack(list(frames))


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    for word in words:
        assert word in lines[0]


def _option(name: str, value: object) -> str:
    return f"--{name}" if value is True else f"--{name}={value}"


@pytest.fixture
def animate(cli: Run, cli_process: Run, weights: Path, portrait: Path, second: Path, tmp_path: Path) -> Run:
    """Runs animate with good inputs, except for the options given; `own`: in a process of its own."""

    def run(own: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
        given = {"image": portrait, "audio": second, "out": tmp_path / "out" / "o.mp4", "weights": weights, "device": "cpu", **options}
        (tmp_path / "out").mkdir(exist_ok=True)
        return (cli_process if own else cli)("animate", *(_option(key.replace("_", "-"), value) for key, value in given.items()))

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "o.mp4"


# -- what works ---------------------------------------------------------------------------------------


def test_a_portrait_and_a_voice_become_a_video(animate: Run, portrait: Path, out: Path, tmp_path: Path) -> None:
    done = animate(own=True, report=tmp_path / "r.json", seed=3)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "r.json").read_text())
    video_s, audio_s, frames = tracks(out)
    assert (frames, report["frames"], report["fps"], report["width"], report["height"]) == (25, 25, 25.0, *Image.open(portrait).size)
    assert abs(video_s - audio_s) <= 0.04 + 1e-6 and report["audio_s"] == 1.0
    assert set(report["ttbc_s"]) == {"p50", "p95", "max"}
    assert 0 < report["ttff_s"] < 60 and report["rtf"] > 0 and report["peak_rss_mb"] > 50 and report["warnings"] == []
    assert [p.name for p in out.parent.iterdir()] == ["o.mp4"]


@pytest.mark.slow
def test_another_process_makes_the_same_pixels(animate: Run, tmp_path: Path) -> None:
    here, there = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert animate(out=here, seed=1).returncode == 0
    assert animate(own=True, out=there, seed=1).returncode == 0
    assert np.array_equal(pixels(here), pixels(there))


@pytest.mark.parametrize("picture", ["grey.png", "alpha.png", "huge.jpg"])
def test_odd_pictures_work(animate: Run, pictures: Path, out: Path, picture: str) -> None:
    done = animate(image=pictures / picture)
    assert done.returncode == 0, done.stderr
    assert tracks(out)[2] == 25


@pytest.mark.parametrize(
    ("seconds", "options"),
    [(0.3, {}), (1.0, {"rate": 48000, "channels": 2}), (1.5, {"silent": True})], ids=["short", "stereo-48k", "silent"])
def test_odd_sounds_work(animate: Run, make_wav: MakeWav, tmp_path: Path, out: Path, seconds: float, options: dict[str, object]) -> None:
    done = animate(audio=make_wav(tmp_path / "odd.wav", seconds, **options))
    assert done.returncode == 0, done.stderr
    video_s, _, _ = tracks(out)
    assert abs(video_s - seconds) <= 0.04


@pytest.mark.slow
def test_the_sound_of_a_video_and_a_name_with_spaces_work(animate: Run, tmp_path: Path, portrait: Path) -> None:
    folder = tmp_path / "Gr\u00fc\u00dfe aus \u6771\u4eac"
    folder.mkdir()
    picture = folder / f"mein Bild{portrait.suffix}"
    shutil.copy(portrait, picture)
    first = folder / "erstes Video.mp4"
    assert animate(own=True, image=picture, out=first).returncode == 0
    done = animate(image=picture, audio=first, out=folder / "zweites.mp4")
    assert done.returncode == 0, done.stderr
    assert abs(tracks(folder / "zweites.mp4")[0] - 1.0) <= 0.08  # the first AAC may be a frame longer than its source
    assert sorted(p.name for p in folder.iterdir()) == sorted([picture.name, "erstes Video.mp4", "zweites.mp4"])


def test_one_face_of_two_can_be_chosen_and_a_mask_given(animate: Run, pictures: Path, out: Path) -> None:
    done = animate(image=pictures / "two.jpg", face=1)
    assert done.returncode == 0, done.stderr
    done = animate(mask=pictures / "mask.png", speaking="speaking", steps=1)
    assert done.returncode == 0, done.stderr
    assert tracks(out)[2] == 25


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "words"),
    [("none.png", ("image", "face")), ("two.jpg", ("2", "face")), ("empty.png", ("image",)), ("missing.png", ("missing.png",))])
def test_unusable_pictures_are_one_line(animate: Run, pictures: Path, out: Path, picture: str, words: tuple[str, ...]) -> None:
    assert_one_line(animate(own=picture == "missing.png", image=pictures / picture), *words)
    assert list(out.parent.iterdir()) == []


def test_a_corrupt_picture_is_one_line(animate: Run, pictures: Path, portrait: Path, out: Path) -> None:
    assert_one_line(animate(image=pictures / f"corrupt{portrait.suffix}"), "image")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"RIFF\x00\x00\x00\x00WAVEjunk", os.urandom(5000)], ids=["empty", "broken-wav", "noise"])
def test_unusable_sounds_are_one_line(animate: Run, tmp_path: Path, out: Path, content: bytes) -> None:
    sound = tmp_path / "bad.wav"
    sound.write_bytes(content)
    assert_one_line(animate(audio=sound), "audio", "bad.wav")
    assert list(out.parent.iterdir()) == []


def test_a_wav_without_samples_is_one_line(animate: Run, make_wav: MakeWav, tmp_path: Path, out: Path) -> None:
    assert_one_line(animate(audio=make_wav(tmp_path / "none.wav", 0.0)), "audio")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "noise"])
def test_unusable_weights_are_one_line(animate: Run, weights: Path, tmp_path: Path, out: Path, damage: str) -> None:
    bad = tmp_path / "bad.safetensors"
    if damage != "missing":
        data = weights.read_bytes()
        bad.write_bytes(data[: len(data) // 2] if damage == "cut" else os.urandom(4096))
    assert_one_line(animate(weights=bad), "weights", "bad.safetensors")
    assert list(out.parent.iterdir()) == []


def test_an_unwritable_output_is_one_line(animate: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line(animate(out=tmp_path / "no such folder" / "o.mp4"), "no such folder")
    assert_one_line(animate(out=tmp_path / "file" / "o.mp4"))
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert_one_line(animate(out=folder))
    assert_one_line(animate(report=tmp_path / "no such folder" / "r.json"), "no such folder")


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 0), ("seed", -1), ("face", 7), ("device", "abacus"), ("decode_device", "cuda:9"), ("queue_depth", 0),
     ("speaking", "shouting")])
def test_unusable_options_are_one_line(animate: Run, out: Path, option: str, value: object) -> None:
    done = animate(**{option: value})
    assert_one_line(done, str(value))
    assert list(out.parent.iterdir()) == []


def test_an_empty_mask_is_one_line(animate: Run, pictures: Path) -> None:
    assert_one_line(animate(mask=pictures / "black.png"), "mask")


def test_several_portraits_are_one_line(cli: Run, portrait: Path, second: Path, tmp_path: Path) -> None:
    done = cli("animate", "--image", portrait, "--image", portrait, "--audio", second, "--out", tmp_path / "o.mp4")
    assert_one_line(done, "--image", "2 portraits")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 12 kB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(animate: Run, make_wav: MakeWav, tmp_path: Path, small_disk: Path) -> None:
    sound = make_wav(tmp_path / "long.wav", 5.0)
    assert_one_line(animate(audio=sound, out=small_disk / "o.mp4", quiet=True), "disk is full", "space")
    assert list(small_disk.iterdir()) == []


# -- stopping ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "ignored"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGHUP, 129, False), (signal.SIGTERM, 143, True)],
    ids=["ctrl-c", "terminate", "terminal closed", "terminal closed under nohup, then terminate"])
def test_stopping_leaves_nothing_behind(
    weights: Path, portrait: Path, make_wav: MakeWav, tmp_path: Path, cli_environment: dict[str, str], sent: signal.Signals, code: int,
    ignored: bool,
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    sound = make_wav(tmp_path / "minute.wav", 120.0)

    def begin() -> None:
        signal.signal(sent, signal.SIG_DFL)  # a job in a shell's background starts with Ctrl-C ignored
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "tm_core.cli", "animate", "--image", portrait, "--audio", sound, "--out", folder / "o.mp4",
         "--weights", weights, "--device", "cpu"],
        env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=begin)
    try:
        end = time.monotonic() + 120
        while not list(folder.iterdir()) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None and list(folder.iterdir()), "it never began to write"
        if ignored:
            process.send_signal(signal.SIGHUP)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(sent)
        started = time.monotonic()
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert time.monotonic() - started < 10
    assert "Traceback" not in stderr
    assert list(folder.iterdir()) == []
