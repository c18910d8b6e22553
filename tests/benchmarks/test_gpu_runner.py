"""`make gpu`: a part that raises, hangs or is killed costs only itself; rows are there at once; the limit of the run is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks._gpu.parts import LIMIT_S, PARTS
from benchmarks._gpu.record import FIELDS, Recorder, read_rows
from benchmarks._gpu.runner import Part, run_parts
from benchmarks._gpu.table import HOW, table_of, write_table

# parts without torch, so that a process costs a tenth of a second
SCRIPT = """
import os, signal, subprocess, sys, time

def good(told):
    told.at_most("half", 0.5, 1.0, "m")

def slow(told):
    told.row("early", 1)
    time.sleep(1.5)
    told.row("late", 2)

def raises(told):
    told.row("before", 1)
    raise RuntimeError("the first line\\nthe second")

def exits(told):
    os._exit(3)

def killed(told):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(told):
    told.row("before", 1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    told.row("child", child.pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu_parts_of_this_test.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def part(function: str, limit_s: float = 10, **how: float) -> Part:
    return Part(name=function, target=f"gpu_parts_of_this_test:{function}", limit_s=limit_s, least_s=how.get("least_s", 0.1))


def said(rows: list[dict[str, object]], name: str) -> dict[str, object]:
    """The part's last word, `took` left out."""
    return [r for r in rows if r["part"] == name and r["what"] != "took"][-1]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_part_costs_only_itself(tmp_path: Path) -> None:
    names = ["good", "raises", "exits", "killed", "hangs"]
    rows = run_parts([*(part(n, 2.0 if n == "hangs" else 10) for n in names), Part(name="last", target=part("good").target, limit_s=10)],
                     out=tmp_path / "out", device="cpu", limit_s=60)
    assert said(rows, "raises")["value"] == "failed: RuntimeError: the first line" and said(rows, "raises")["ok"] is False
    assert said(rows, "exits")["value"] == "failed: ended with code 3, see log.txt"
    assert str(said(rows, "killed")["value"]).startswith("killed by SIGKILL")
    assert said(rows, "hangs")["value"] == "stopped: did not end within 2 s"
    for name in ("good", "last"):
        assert said(rows, name) | {"seconds": 0} == {
            "part": name, "what": "half", "value": 0.5, "unit": "m", "bar": "<= 1", "ok": True, "seconds": 0, "device": "cpu"}
    took = {r["part"]: r for r in rows if r["what"] == "took"}
    assert list(took) == [*names, "last"] and [took[n]["ok"] for n in took] == [True, False, False, False, False, True]
    assert float(took["hangs"]["value"]) < 5  # type: ignore[arg-type]
    child = next(r["value"] for r in rows if r["what"] == "child")
    assert not alive(int(child)), "what a part started goes with it"  # type: ignore[call-overload]
    assert "the second" in (tmp_path / "out" / "log.txt").read_text()
    assert all(tuple(r) == FIELDS for r in rows) and rows == read_rows(tmp_path / "out" / "rows.jsonl")


def test_a_row_is_there_while_its_part_still_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = threading.Thread(target=run_parts, args=([part("slow")],), kwargs={"out": out, "device": "cpu", "limit_s": 30})
    runner.start()
    while not (found := read_rows(out / "rows.jsonl")) and runner.is_alive():
        time.sleep(0.02)
    assert [r["what"] for r in found] == ["early"] and runner.is_alive()
    runner.join()
    assert [r["what"] for r in read_rows(out / "rows.jsonl")] == ["early", "late", "took"]


def test_the_limit_of_the_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    rows = run_parts([part("hangs", 60), part("good", least_s=1.0)], out=Path("out"), device="cpu", limit_s=2.0)
    assert time.monotonic() - began < 5
    assert str(said(rows, "hangs")["value"]).startswith("stopped")
    assert said(rows, "good")["value"] == "not reached: 0 s left, needs 1"


def test_a_run_that_is_told_to_end_leaves_its_rows_and_no_process(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from benchmarks._gpu.runner import Part, run_parts\n"
            "part = Part(name='hangs', target='gpu_parts_of_this_test:hangs', limit_s=60)\n"
            "run_parts([part], out=Path(sys.argv[1]), device='cpu', limit_s=60)")
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), os.environ["PYTHONPATH"]])
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    while not (child := [r["value"] for r in read_rows(tmp_path / "rows.jsonl") if r["what"] == "child"]):
        assert runner.poll() is None
        time.sleep(0.02)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(15) != 0
    rows = read_rows(tmp_path / "rows.jsonl")
    assert said(rows, "hangs")["value"] == "stopped: the run was told to end" and not alive(child[0])  # type: ignore[arg-type]


def test_rows_say_no_number_that_json_has_not(tmp_path: Path) -> None:
    told = Recorder(path=tmp_path / "rows.jsonl", part="p", device="cpu", started=time.monotonic(), ends=time.monotonic() + 5)
    told.at_most("nothing", float("nan"), 1.0)
    told.at_most("much", 123456.0, 1.0)
    assert not told.enough("more", 60)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"part": "p", "wh')  # a line that a full disk cut short
    first, second, third = read_rows(tmp_path / "rows.jsonl")
    assert (first["value"], first["ok"]) == ("nan", False) and (second["value"], second["ok"]) == (123500.0, False)
    assert str(third["value"]).startswith("not reached: 5 s left") or str(third["value"]).startswith("not reached: 4 s left")
    json.dumps([first, second, third], allow_nan=False)


def test_the_page_shows_every_row_and_says_what_a_rehearsal_is(tmp_path: Path) -> None:
    rows = run_parts([part("good"), part("raises")], out=tmp_path, device="cpu", limit_s=30)
    page, summary = write_table(tmp_path)
    assert (tmp_path / "gpu.md").read_text() == page
    assert "**No row of a GPU is here yet.**" in page and "| half | 0.5 m | <= 1 | yes |" in page
    assert "failed: RuntimeError: the first line" in page and "MISS raises: part: failed" in summary
    assert "No row of a GPU" not in table_of([r | {"device": "cuda"} for r in rows]).page
    assert len(list(tmp_path.glob("*.*"))) - 1 <= 8  # what comes back from a lent machine; the script of this test is one of them


def test_the_page_in_docs_says_how_to_run_it(repo_root: Path) -> None:
    """docs/gpu.md is what a run writes, the newest there is: its beginning and its parts are the code's."""
    page = (repo_root / "docs" / "gpu.md").read_text()
    assert page.startswith(HOW.rstrip()) and all(f"| {p.name} | " in page for p in PARTS)
    assert ("**No row of a GPU is here yet.**" in page) == (", device cpu: " in page)


def test_parts_fit_a_lent_machine() -> None:
    assert LIMIT_S <= 480 and all(p.limit_s < LIMIT_S and p.least_s <= p.limit_s for p in PARTS)
    assert len({p.name for p in PARTS}) == len(PARTS)


MOST_MIB = 60  # of tracked files: a lent machine is sent 64 MiB, of which a pack takes some


def test_the_tree_travels() -> None:
    """What git tracks, or would if it were added now, is small enough to be carried to a lent machine."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "-c", "-o", "--exclude-standard"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no clone: nobody knows here what is tracked")
    sizes = {name: (root / name).lstat().st_size for name in done.stdout.decode().split("\0") if name and (root / name).exists()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    assert sum(sizes.values()) < MOST_MIB * 2**20, f"{sum(sizes.values()) / 2**20:.1f} MiB, the largest are {largest}"
