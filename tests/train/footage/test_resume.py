"""A run that is killed, repeated, given changed files: always the result of one that was not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tm_core.errors import InputError
from tm_core.train.footage import FootageConfig, prepare
from tm_core.train.footage.footage_ledger import FootageLedger, Stamp, clip_record, source_record


@pytest.fixture(scope="module")
def few(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the files."""
    folder = tmp_path_factory.mktemp("few")
    for i, name in enumerate(("talk.mp4", "corrupt.mp4", "films/cut.mp4")):
        shutil.copy(footage / name, folder / f"{i}.mp4")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != "report.json"}


def start(folder: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tm_core.cli", "data", "prepare", str(folder), "--out", str(out), "--set", "sync=lips", *more]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ})


def killed_when(run: subprocess.Popen[str], ready: Any) -> None:
    end = time.monotonic() + 60
    while not ready() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert run.poll() is None, run.communicate()[0]
    run.send_signal(signal.SIGKILL)
    run.communicate()


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(few: Path, lips: FootageConfig, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare(few, whole, lips)
    ledger, clips = out / "ledger.jsonl", out / "clips"
    # dead in the middle of the third file: its first clip is there, the ledger does not know it yet
    killed_when(start(few, out), lambda: len(list(clips.glob("2-*.safetensors"))) == 1)
    assert '"2.mp4"' not in ledger.read_text() and '"0.mp4"' in ledger.read_text()
    with open(ledger, "a") as file:
        file.write('{"kind": "clip", "sou')  # as if dead in the middle of a line
    again = start(few, out)
    assert again.wait(120) == 0, again.communicate()[0]
    assert "0.mp4" not in again.communicate()[0]  # what was finished is not done again
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_two_workers_come_to_the_same_verdicts(footage: Path, tmp_path: Path, prepared: Any) -> None:
    names = ("talk.mp4", "corrupt.mp4", "mute.mp4", "slow.mp4")
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(footage / name, tmp_path / "in")
    run = start(tmp_path / "in", out := tmp_path / "out", "--workers", "2")
    assert run.wait(120) == 0, run.communicate()[0]
    reasons: dict[str, list[Any]] = {name: [] for name in names}
    for r in FootageLedger(out / "ledger.jsonl"):
        reasons[r["source"]].append(r["reason"])
    assert reasons == {name: [r["reason"] for r in prepared.records if r["source"] == name] for name in names}
    assert reasons["talk.mp4"] == [None, None] and reasons["mute.mp4"][0] == "silent"


def test_what_is_finished_is_not_done_again(footage: Path, prepared: Any, lips: FootageConfig) -> None:
    before = contents(prepared.out)
    report = prepare(footage, prepared.out, lips)
    assert report.done_now == 0 and report.kept == prepared.report.kept
    assert contents(prepared.out) == before


@pytest.mark.slow
def test_a_changed_file_and_other_thresholds_are_done_again(footage: Path, lips: FootageConfig, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(footage / "talk.mp4", folder / "a.mp4")
    shutil.copy(footage / "slow.mp4", folder / "b.mp4")
    assert prepare(folder, out, lips, limit=1).waiting == 1
    assert prepare(folder, out, lips).kept == 1
    shutil.copy(footage / "mute.mp4", folder / "a.mp4")
    report = prepare(folder, out, lips)
    assert report.done_now == 1 and report.kept == 0 and not list((out / "clips").iterdir())
    assert prepare(folder, out, FootageConfig(sync="off")).done_now == 2


def test_an_output_belongs_to_one_folder(footage: Path, prepared: Any, lips: FootageConfig, tmp_path: Path) -> None:
    shutil.copy(footage / "slow.mp4", tmp_path / "a.mp4")
    with pytest.raises(InputError, match="holds the clips of"):
        prepare(tmp_path, prepared.out, lips)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "at least one process"), ({"limit": 0}, "at least one source"), ({"folder": "nowhere"}, "is no folder"),
     ({"out": "notes.txt"}, "cannot be used")])
def test_bad_input(footage: Path, lips: FootageConfig, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    shutil.copy(footage / "slow.mp4", tmp_path / "a.mp4")
    (tmp_path / "notes.txt").touch()
    folder, out = tmp_path / options.pop("folder", "."), tmp_path / options.pop("out", "out")
    with pytest.raises(InputError, match=message):
        prepare(folder, out, lips, **options)


def test_clips_are_no_sources(footage: Path, lips: FootageConfig, tmp_path: Path) -> None:
    shutil.copy(footage / "talk.mp4", tmp_path / "a.mp4")
    assert prepare(tmp_path, tmp_path / "out", lips).kept == 1
    assert prepare(tmp_path, tmp_path / "out", lips).sources == 1


def test_a_ledger_forgets_what_was_not_finished(tmp_path: Path) -> None:
    stamp = Stamp(size=1, mtime_ns=2, settings="s")
    ledger = FootageLedger(tmp_path / "l.jsonl")
    ledger.add("b", [clip_record("b", "b-000", 0, 4, reason=None, measures={}), source_record("b", stamp, "done")])
    ledger.add("a", [source_record("a", stamp, "failed")])
    with open(ledger.path, "a") as file:
        file.write('{"kind": "clip", "source": "c"}\n{"kind": "sour')
    again = FootageLedger(ledger.path)
    assert again.finished("b", stamp) and not again.finished("a", stamp) and not again.finished("c", stamp)
    assert not again.finished("b", Stamp(size=1, mtime_ns=3, settings="s"))
    again.compact()
    assert [r["source"] for r in FootageLedger(ledger.path)] == ["a", "b", "b"]
    assert ledger.path.read_text().endswith("\n")
