"""Files that are written: nothing is overwritten that is read, whole or not at all, one job at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tm_core.errors import InputError
from tm_core.outputs import PART, Staged, check_apart, check_output, part_of, write_text


def test_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    out.write_text("old")
    with Staged(out) as part:
        part.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    out.write_text("old")
    with pytest.raises(RuntimeError), Staged(out) as part:
        part.write_text("half")
        raise RuntimeError
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_of_two_jobs_one_is_told(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    with Staged(out) as part:
        part.write_text("first")
        with pytest.raises(InputError, match="another job is writing it"):
            write_text(out, "second")
    assert out.read_text() == "first"
    write_text(out, "third")
    assert out.read_text() == "third"


def test_what_a_kill_left_is_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    code = ("import os, signal, sys; from pathlib import Path; from tm_core.outputs import Staged\n"
            "with Staged(Path(sys.argv[1])) as part:\n    part.write_text('half of a long text')\n    os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", code, str(out)], env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False)
    assert part_of(out).is_file()
    write_text(out, "whole")
    assert out.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_checking_touches_nothing_of_another_job(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    check_output(out, "--out", (".mp4",))
    assert not list(tmp_path.iterdir())
    with Staged(out) as part:
        part.write_text("first")
        with pytest.raises(InputError, match="another job"):
            check_output(out)
        assert part.read_text() == "first"


@pytest.mark.parametrize(("name", "words"), [
    ("x.wav", r"\.wav is not what is written; end the name in \.mp4"),
    ("x.gif", r"\.gif is not what is written"),
    ("x", "no suffix is not what is written"),
    ("no/x.mp4", "there is no folder"),
    ("a" * 250 + ".mp4", "is a name too long for this disk; choose a shorter one"),
    (".", "is a folder"),
])
def test_names_that_cannot_be_written(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_output(tmp_path / name, "--out", (".mp4",))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    path.write_bytes(b"sound")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "soft.wav").symlink_to(path)
    os.link(path, tmp_path / "hard.wav")
    return path


@pytest.mark.parametrize("name", ["voice.wav", "soft.wav", "hard.wav", "folder/../voice.wav", "linked/voice.wav", "VOICE.wav"])
def test_what_is_read_is_not_written(voice: Path, name: str) -> None:
    with pytest.raises(InputError, match="is the file that --audio reads; nothing was done"):
        check_apart([("--audio", voice)], [("--out", voice.parent / name)])


def test_relative_name_is_the_same_file(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(voice.parent)
    with pytest.raises(InputError, match="is the file that --audio reads"):
        check_apart([("--audio", Path("voice.wav"))], [("--out", voice)])


def test_input_that_has_the_temporary_name(voice: Path) -> None:
    held = voice.parent / f"o.mp4{PART}"
    held.write_bytes(b"sound")
    with pytest.raises(InputError, match="is the file that --audio reads"):
        check_apart([("--audio", held)], [("--out", voice.parent / "o.mp4")])


@pytest.mark.parametrize(("first", "second", "words"), [
    ("o.mp4", "o.mp4", "is the file that --out writes"),
    ("o.mp4", "O.MP4", "is the file that --out writes"),
    ("o.mp4", "o.mp4/x.json", "is the file that --out writes"),
    ("o.mp4/x.mp4", "o.mp4", "is a folder that --out writes into"),
])
def test_two_outputs_are_two_files(tmp_path: Path, first: str, second: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_apart([], [("--out", tmp_path / first), ("--report", tmp_path / second)])


def test_files_of_their_own_pass(voice: Path) -> None:
    check_apart([("--audio", voice)], [("--out", voice.parent / "o.mp4"), ("--report", voice.parent / "o.json")])
