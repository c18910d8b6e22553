"""The ledger after every moment a kill can come at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tm_core.batch.digest import file_digest
from tm_core.batch.ledger import DONE, FAILED, LEDGER, Ledger, Record
from tm_core.errors import InputError


def staged(ledger: Ledger, name: str, data: bytes = b"video") -> Record:
    path = ledger.staging / name
    path.write_bytes(data)
    return Record(out="sub/a.mp4", digest="d", state=DONE, staged=name, sha256=file_digest(path))


def test_a_video_gets_its_name_when_it_is_recorded(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.done(staged(ledger, "1.mp4"))
        ledger.failed(Record(out="b.mp4", digest="d", state=FAILED, reason="why"))
    assert (tmp_path / "sub/a.mp4").read_bytes() == b"video" and not (tmp_path / ".batch").exists()
    with Ledger(tmp_path) as again:
        known, failed = again.of("sub/a.mp4", "d"), again.of("b.mp4", "d")
        assert known is not None and known.state == DONE and failed is not None and failed.reason == "why"
        assert again.of("sub/a.mp4", "other inputs") is None
        (tmp_path / "sub/a.mp4").unlink()
        assert again.of("sub/a.mp4", "d") is None


def test_killed_between_the_record_and_the_name(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        record = staged(ledger, "1.mp4")
        ledger.failed(record)  # a line, and no renaming
        kept = (ledger.staging / "1.mp4").read_bytes()
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch/1.mp4").write_bytes(kept)  # leaving the context cleans up; a kill does not
    (tmp_path / ".batch/2.mp4.part").write_bytes(b"half")
    with Ledger(tmp_path) as again:
        assert (tmp_path / "sub/a.mp4").read_bytes() == kept and again.of("sub/a.mp4", "d") is not None
        assert not list((tmp_path / ".batch").iterdir())


def test_a_staged_file_that_is_not_the_recorded_one_is_no_video(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.failed(staged(ledger, "1.mp4"))
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch/1.mp4").write_bytes(b"vid")
    with Ledger(tmp_path) as again:
        assert again.of("sub/a.mp4", "d") is None and not (tmp_path / "sub/a.mp4").exists()


@pytest.mark.parametrize("cut", range(1, 12, 3))
def test_a_line_cut_off_by_a_kill_is_nothing_and_spoils_nothing(tmp_path: Path, cut: int) -> None:
    with Ledger(tmp_path) as ledger:
        for name in "ab":
            ledger.failed(Record(out=name, digest="d", state=FAILED, reason="why"))
    whole = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(whole[:-cut])
    with Ledger(tmp_path) as again:
        assert again.of("a", "d") is not None and (again.of("b", "d") is None) == (cut > 1)
        again.failed(Record(out="c", digest="d", state=FAILED, reason="why"))
    with Ledger(tmp_path) as last:
        assert last.of("a", "d") is not None and last.of("c", "d") is not None


def test_one_process_at_a_time(tmp_path: Path, repo_root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tm_core.batch.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=repo_root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match="another batch"), Ledger(tmp_path):
            pass
        other.kill()
    with Ledger(tmp_path):  # the lock went with the process
        pass


def test_every_line_is_one_json_object(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.failed(Record(out="a", digest="d", state=FAILED, reason="two\nlines"))
    (line,) = (tmp_path / LEDGER).read_text().splitlines()
    assert json.loads(line)["reason"] == "two\nlines"
