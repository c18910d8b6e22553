"""The ledger after every moment a kill can come at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tm_core.batch.batch_ledger import DONE, FAILED, LEDGER, BatchLedger, BatchRecord
from tm_core.batch.digest import file_digest
from tm_core.errors import InputError


def staged(ledger: BatchLedger, name: str, data: bytes = b"video") -> BatchRecord:
    path = ledger.staging / name
    path.write_bytes(data)
    return BatchRecord(out="sub/a.mp4", digest="d", state=DONE, staged=name, sha256=file_digest(path))


def test_a_video_gets_its_name_when_it_is_recorded(tmp_path: Path) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.done(staged(ledger, "1.mp4"))
        ledger.failed(BatchRecord(out="b.mp4", digest="d", state=FAILED, reason="why"))
    assert (tmp_path / "sub/a.mp4").read_bytes() == b"video" and not (tmp_path / ".batch").exists()
    with BatchLedger(tmp_path) as again:
        known, failed = again.of("sub/a.mp4", "d"), again.of("b.mp4", "d")
        assert known is not None and known.state == DONE and failed is not None and failed.reason == "why"
        assert again.of("sub/a.mp4", "other inputs") is None
        (tmp_path / "sub/a.mp4").unlink()
        assert again.of("sub/a.mp4", "d") is None


@pytest.mark.parametrize("damage", ["empty", "cut", "one byte", "a folder", "away"])
def test_video_that_was_damaged_is_no_video(tmp_path: Path, damage: str) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.done(staged(ledger, "1.mp4"))
    path = tmp_path / "sub/a.mp4"
    before = path.stat()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(b"vide")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif damage == "one byte":
        path.write_bytes(b"vidEo")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    with BatchLedger(tmp_path) as again:
        assert again.of("sub/a.mp4", "d") is None


def test_video_that_was_copied_is_the_same_video(tmp_path: Path) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.done(staged(ledger, "1.mp4"))
    os.utime(tmp_path / "sub/a.mp4")
    with BatchLedger(tmp_path) as again:
        assert again.of("sub/a.mp4", "d") is not None


def test_record_of_an_older_version_is_held_against_the_hash(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    record = {"out": "a.mp4", "digest": "d", "state": DONE, "staged": "1.mp4", "sha256": file_digest(tmp_path / "a.mp4")}
    (tmp_path / LEDGER).write_text(json.dumps(record) + "\n")
    with BatchLedger(tmp_path) as ledger:
        assert ledger.of("a.mp4", "d") is not None
        (tmp_path / "a.mp4").write_bytes(b"vidEo")
        assert ledger.of("a.mp4", "d") is None


def test_finished_video_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.done(staged(ledger, "1.mp4"))
    read: list[Path] = []
    monkeypatch.setattr("tm_core.batch.batch_ledger.file_digest", lambda path: read.append(path) or "")
    with BatchLedger(tmp_path) as again:
        assert again.of("sub/a.mp4", "d") is not None and not read


@pytest.mark.parametrize("killed", [False, True], ids=["then", "by the next run"])
def test_video_that_gets_no_name_is_a_failed_item(tmp_path: Path, killed: bool) -> None:
    (tmp_path / "sub").write_text("a file where a folder is needed")
    with BatchLedger(tmp_path) as ledger:
        record = staged(ledger, "1.mp4")
        if killed:
            ledger.failed(record)  # a line, and no renaming
        else:
            assert ledger.done(record).state == FAILED
    if killed:
        (tmp_path / ".batch").mkdir()
        (tmp_path / ".batch/1.mp4").write_bytes(b"video")
    with BatchLedger(tmp_path) as again:
        known = again.of("sub/a.mp4", "d")
        assert known is not None and known.state == FAILED and "sub/a.mp4: cannot be written" in known.reason
    assert {p.name for p in tmp_path.iterdir()} == {"sub", LEDGER}


def test_killed_between_the_record_and_the_name(tmp_path: Path) -> None:
    with BatchLedger(tmp_path) as ledger:
        record = staged(ledger, "1.mp4")
        ledger.failed(record)  # a line, and no renaming
        kept = (ledger.staging / "1.mp4").read_bytes()
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch/1.mp4").write_bytes(kept)  # leaving the context cleans up; a kill does not
    (tmp_path / ".batch/2.mp4.part").write_bytes(b"half")
    with BatchLedger(tmp_path) as again:
        assert (tmp_path / "sub/a.mp4").read_bytes() == kept and again.of("sub/a.mp4", "d") is not None
        assert not list((tmp_path / ".batch").iterdir())


def test_a_staged_file_that_is_not_the_recorded_one_is_no_video(tmp_path: Path) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.failed(staged(ledger, "1.mp4"))
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch/1.mp4").write_bytes(b"vid")
    with BatchLedger(tmp_path) as again:
        assert again.of("sub/a.mp4", "d") is None and not (tmp_path / "sub/a.mp4").exists()


@pytest.mark.parametrize("cut", range(1, 12, 3))
def test_a_line_cut_off_by_a_kill_is_nothing_and_spoils_nothing(tmp_path: Path, cut: int) -> None:
    with BatchLedger(tmp_path) as ledger:
        for name in "ab":
            ledger.failed(BatchRecord(out=name, digest="d", state=FAILED, reason="why"))
    whole = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(whole[:-cut])
    with BatchLedger(tmp_path) as again:
        assert again.of("a", "d") is not None and (again.of("b", "d") is None) == (cut > 1)
        again.failed(BatchRecord(out="c", digest="d", state=FAILED, reason="why"))
    with BatchLedger(tmp_path) as last:
        assert last.of("a", "d") is not None and last.of("c", "d") is not None


def test_one_process_at_a_time(tmp_path: Path, repo_root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tm_core.batch.batch_ledger import BatchLedger\n"
        "with BatchLedger(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=repo_root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match="another batch"), BatchLedger(tmp_path):
            pass
        other.kill()
    with BatchLedger(tmp_path):  # the lock went with the process
        pass


def test_every_line_is_one_json_object(tmp_path: Path) -> None:
    with BatchLedger(tmp_path) as ledger:
        ledger.failed(BatchRecord(out="a", digest="d", state=FAILED, reason="two\nlines"))
    (line,) = (tmp_path / LEDGER).read_text().splitlines()
    assert json.loads(line)["reason"] == "two\nlines"
