"""`bench mutations`: a few of its thousands, and that it counts what it is there to find."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks import _mutants, mutations
from benchmarks._host_mutations import changed
from tm_core.errors import InputError

FEW = {"picture": 40, "mask": 40, "sound": 40, "video": 30, "manifest": 60, "timeline": 60, "weights": 40}


@pytest.mark.parametrize("entry", _mutants.ENTRIES)
def test_damaged_files_are_read_or_refused_in_one_line(entry: str, tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "work").mkdir()
    zoo = list(_mutants.ENTRIES[entry][0](tmp_path / "zoo"))
    outcomes = [_mutants.attempt(entry, number, zoo, tmp_path / "work") for number in range(1, FEW[entry] + 1)]
    assert [o for o in outcomes if o["outcome"] == "miss"] == []
    assert "refused" in {o["outcome"] for o in outcomes}, "mutations are not harmless"
    _mutants.ENTRIES[entry][1](zoo[0], 1)  # undamaged, it is read


def test_the_same_number_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(random.Random(0).randbytes(5000))
    first, again, other = (_mutants.made("sound", n, [tmp_path / "a"], tmp_path).read_bytes() for n in (3, 3, 4))
    assert first == again != other


def faulty(path: Path, number: int) -> object:
    """One of every fault there is, by number."""
    if number == 1:
        raise KeyError("x")
    if number == 2:
        raise InputError("a", "b\nc", "d", "e")
    if number == 3:
        raise type("TwoLines", (InputError,), {"__str__": lambda _: "two\nlines"})("a", "b", "c", "d")
    if number == 4:
        (path.parent / "left.part").touch()
    return None


def test_every_fault_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_mutants.ENTRIES, "mask", (_mutants.masks, faulty))
    (tmp_path / "a.png").write_bytes(b"abc")
    (tmp_path / "work").mkdir()
    outcomes = [_mutants.attempt("mask", n, [tmp_path / "a.png"], tmp_path / "work") for n in range(5)]
    assert [o["outcome"] for o in outcomes] == ["answer", "miss", "refused", "miss", "miss"]
    assert "KeyError" in outcomes[1]["why"] and "left.part" in outcomes[4]["why"]
    assert [r["ok"] for r in mutations.counted("mask", outcomes)] == [None, None, False]


@pytest.mark.parametrize(("program", "says"), [
    ("import json, time; print(json.dumps({'begin': 5}), flush=True); time.sleep(60)", "no answer"),
    ("import json, os; print(json.dumps({'begin': 5}), flush=True); os.kill(os.getpid(), 11)", "ended with -11")], ids=["hang", "crash"])
def test_a_process_that_hangs_or_dies_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str) -> None:
    monkeypatch.setattr(mutations, "MOST_S", 1.0)
    monkeypatch.setattr(mutations, "WORKER", ("-c", program))
    began = time.monotonic()
    outcomes = mutations._share("mask", 5, 1)
    assert [(o["number"], o["outcome"]) for o in outcomes] == [(5, "miss")] and says in outcomes[0]["why"]
    assert time.monotonic() - began < 20


def test_widgets_of_this_packs_nodes_are_changed() -> None:
    graph = {"1": {"class_type": "TM_A", "inputs": {"x": 1, "y": 2}}, "2": {"class_type": "LoadImage", "inputs": {"image": "a"}}}
    made = [changed(graph, n) for n in range(50)]
    assert all(g["2"] == graph["2"] for g in made) and len({repr(g) for g in made}) > 20
    assert graph["1"]["inputs"] == {"x": 1, "y": 2}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="bench mutations has picture"):
        mutations.run(part=["smell"])
