"""Wrong names and numbers: told in one line before anything heavy is loaded, whatever the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tm_core.cli.argument_checks import check_animate, check_score
from tm_core.errors import InputError
from tm_core.options import AnimateOptions

CASES = {
    "animate": ("--image", "nope.jpg", "--audio", "voice.wav", "--out", "o.mp4"),
    "animate, a folder": ("--image", ".", "--audio", "voice.wav", "--out", "o.mp4"),
    "animate, empty": ("--image", "empty.jpg", "--audio", "voice.wav", "--out", "o.mp4"),
    "animate, a name too long": ("--image", "n" * 300, "--audio", "voice.wav", "--out", "o.mp4"),
    "animate, suffix": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "o.gif"),
    "animate, over its sound": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "./voice.wav"),
    "animate, no folder": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "none/o.mp4"),
    "animate, weights": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "o.mp4", "--weights", "nope.safetensors"),
    "animate, steps": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "o.mp4", "--steps", "0"),
    "animate, face": ("--image", "face.jpg", "--audio", "voice.wav", "--out", "o.mp4", "--face", "-1"),
    "score": ("nope.mp4",),
    "score, sound": ("voice.wav", "--audio", "nope.wav"),
    "score, over its video": ("clip.mp4", "--csv", "clip.mp4"),
    "batch": ("nope.csv", "--out", "out"),
    "batch, a row": ("jobs.csv", "--out", "out"),
    "batch, into its manifest": ("jobs.csv", "--out", "jobs.csv"),
    "batch, model": ("jobs.csv", "--out", "out", "--model", "nope.safetensors"),
    "batch, workers": ("jobs.csv", "--out", "out", "--workers", "0"),
    "doctor": ("--models", "nope"),
    "doctor, weights": ("--weights", "nope.safetensors"),
    "train": ("tiny", "--footage", "nope"),
    "train, minutes": ("tiny", "--minutes", "0"),
    "data prepare": ("nope",),
    "data prepare, out": (".", "--out", "face.jpg"),
    "data prepare, workers": (".", "--workers", "0"),
    "bench": ("stream", "--weights", "nope.safetensors"),
    "bench, seconds": ("stream", "--seconds", "-1"),
}  # fmt: skip
ONE_PROCESS = """
import contextlib, io, json, signal, sys, time
from tm_core.cli import main
for name, words in json.load(sys.stdin):
    sys.argv, said, code = ["talking-machines", *words], io.StringIO(), 0
    started = time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    spent = time.process_time() - started
    loaded = sorted({"torch", "numpy", "av", "scipy", "PIL"} & set(sys.modules))
    print(json.dumps([name, code, said.getvalue(), loaded, spent]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, portrait: Path, second: Path) -> Path:
    path = tmp_path_factory.mktemp("inputs")
    (path / "face.jpg").write_bytes(portrait.read_bytes())
    (path / "voice.wav").write_bytes(second.read_bytes())
    (path / "clip.mp4").write_bytes(b"a video")
    (path / "empty.jpg").touch()
    (path / "jobs.csv").write_text("image,audio,out\nnope.jpg,voice.wav,a.mp4\n")
    return path


@pytest.fixture(scope="module")
def told(folder: Path, cli_environment: dict[str, str]) -> dict[str, list[object]]:
    """Of each case the exit code, what was said, which heavy modules were loaded by then, and the seconds of the processor."""
    cases = [(name, [*name.split(",")[0].split(), *words]) for name, words in CASES.items()]
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS], input=json.dumps(cases), cwd=folder, env=cli_environment, capture_output=True, text=True,
        timeout=120, check=True)
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_wrong_inputs_are_told_before_anything_heavy_is_loaded(told: dict[str, list[object]], case: str) -> None:
    code, said, loaded, spent = told[case]
    assert code == (1 if case.startswith("doctor") else 2), said
    lines = str(said).strip().splitlines()
    assert lines[0].startswith(("error: ", "MISSING")) and len(lines) == (2 if case == "batch, a row" else 1), said
    assert not loaded
    assert isinstance(spent, float) and spent < 2


def test_nothing_was_written_meanwhile(told: dict[str, list[object]], folder: Path) -> None:
    assert len(told) == len(CASES)
    assert {p.name for p in folder.iterdir()} == {"face.jpg", "voice.wav", "clip.mp4", "empty.jpg", "jobs.csv"}


def test_a_wrong_name_is_told_at_once(folder: Path, cli_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tm_core.cli", "animate", "--image", "nope.jpg", "--audio", "voice.wav", "--out", "o.mp4"]
    taken = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=cli_environment, capture_output=True, text=True, check=False)
        taken.append(time.monotonic() - started)
        assert done.returncode == 2 and done.stderr == "error: --image: nope.jpg: no such file; check the path\n"
    assert min(taken) < 2.0  # 0.3 s on a machine with nothing else to do; with torch loaded 4 s


def test_good_inputs_pass(folder: Path) -> None:
    check_animate(
        image=folder / "face.jpg", audio=folder / "voice.wav", mask=None, weights=None, out=folder / "o.MKV", report=folder / "r.json",
        options=AnimateOptions(face=0), queue_depth=2)
    check_score(folder / "clip.mp4", [folder / "voice.wav"], None, 0.0)
    check_score(folder, [], folder / "scores.csv", None)
    assert not {"o.MKV", "r.json", "scores.csv"} & {p.name for p in folder.iterdir()}


def test_table_is_written_over_no_video_of_its_folder(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--csv: .*clip\.mp4: is the file that video reads"):
        check_score(folder, [], folder / "clip.mp4", None)
