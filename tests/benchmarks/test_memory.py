"""`bench memory`: every part in small, what it catches, and that it leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _loading, memory
from tm_core.errors import InputError
from tm_core.families.registry import identify
from tm_core.model.talking import TalkingModel


def values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["what"]: row["value"] for row in rows}


def test_a_short_stream_is_measured(model: TalkingModel) -> None:
    found = values(memory.stream_rows(model, 4.0))
    assert found["stream"] == 4.0 and found["peak RSS"] >= found["peak RSS in the first 2 s"] > 50


LEAKING = """
import json, torch
from benchmarks import memory
kept = []
def shown():
    for now in range(8):
        if now == 6:
            kept.append(torch.ones(2**24))
        yield float(now)
warm, first, peak = memory.grown(shown(), 8.0)
print(json.dumps({"warm": warm, "growth": peak - first}))
"""


def test_growth_is_what_came_after_the_warm_up() -> None:
    """A stream that keeps 64 MB once half of it is shown, in a process of its own: here other tests may give memory back meanwhile."""
    found = _loading.child("-c", LEAKING)
    assert found["warm"] == 4.0 and 55 < found["growth"] < 90
    assert not memory._growth("it", found["growth"])["ok"]


@pytest.mark.slow
def test_both_modes_stream_in_bounded_memory_and_equal_the_whole(model: TalkingModel) -> None:
    rows = memory.mode_rows(model, 3.0)
    assert len(rows) == 5 and all(row["ok"] for row in rows), rows


def test_caches_are_as_predicted_and_refusals_say_what_fits() -> None:
    rows = memory.cache_rows()
    exact = [row for row in rows if "allocated" in row["what"]]
    assert len(exact) == 5 and all(row["ok"] and row["value"] > 0 for row in exact)
    assert values(rows)["cache per_step: 14B at 512 x 512, predicted"] == pytest.approx(10.7, abs=0.05)
    said = [row for row in rows if "free" in row["what"]]
    assert all(row["ok"] and "does not fit" in row["value"] for row in said) and len(said) == 2
    assert not memory.refusal(512, 512, 64.0)["ok"], "what fits is not refused"


@pytest.mark.parametrize("gb", [0.03, 0.3, 3.0, 40.0])
def test_what_is_written_is_an_infinitetalk_of_that_size(gb: float) -> None:
    base, adapter = _loading.shapes_of(gb)
    assert identify([base, adapter]).family.name == "infinitetalk"
    assert gb / 4 <= 2 * _loading.numbers_in(base, adapter) / 1e9 <= gb
    if gb >= 3:
        assert base["patch_embedding.weight"][0] == 5120
    if gb == 40.0:
        assert _loading.numbers_in(base, adapter) == pytest.approx(18.88e9, rel=0.001)


@pytest.mark.slow
def test_loading_is_measured_in_fresh_processes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(memory, "find_host", lambda: None)  # the host's part is tested below
    found = values(rows := memory.loading_rows(0.05))
    size = found["loading: base and adapter"]
    peak = found["loading: load_open_model: peak RSS over that before"]
    assert size * 0.9 < peak < size + 0.3 and all(row["ok"] is not False for row in rows)
    assert not list(tmp_path.iterdir())


BAD_LOADERS = """
import json, sys
from benchmarks import _loading
from safetensors.torch import load_file
def both(path):
    mapped = load_file(path)
    return [*mapped.values(), *(v.clone() for v in mapped.values())]
load = {"mapped": lambda: list(load_file(sys.argv[2]).values()), "twice": lambda: both(sys.argv[2])}[sys.argv[1]]
print(json.dumps(_loading.measured(load, lambda tensors: tensors)))
"""


@pytest.mark.parametrize(("loader", "copies"), [("mapped", 1), ("twice", 2)])
def test_a_loader_that_maps_or_keeps_two_copies_is_caught(tmp_path: Path, loader: str, copies: int) -> None:
    """The measure itself: pages of a mapped file and a second copy count."""
    base, _ = _loading.shapes_of(0.3)
    path = _loading.write(tmp_path / "f.safetensors", base, torch.bfloat16, 0)
    found = _loading.child("-c", BAD_LOADERS, loader, path)
    assert found["peak"] > 0.9 * copies * path.stat().st_size



def test_loading_in_the_host_holds_no_second_copy(host_installation: Any, tmp_path: Path) -> None:
    """The rule of `bench memory --part loading` at 0.7 GB: the files and one part of them; the host's own loader takes both copies."""
    files = [_loading.write(tmp_path / f"{i}.safetensors", shapes, torch.bfloat16, i) for i, shapes in enumerate(_loading.shapes_of(0.7))]
    size, script = sum(f.stat().st_size for f in files), _loading.ROOT / "benchmarks" / "_host_loading.py"
    host = host_installation.path, _loading.ROOT
    found = _loading.child(script, *host, "pack", "bf16", *files, python=host_installation.python)
    theirs = _loading.child(script, *host, "host", "bf16", files[0], python=host_installation.python)
    assert size > 0.5e9 and 0.9 * size < found["peak"] < 1.6 * size
    assert theirs["peak"] > 1.8 * files[0].stat().st_size


def test_a_full_disk_is_said_before_anything_is_written() -> None:
    with pytest.raises(InputError, match="GB are free"):
        _loading.folder_with_room(10**9)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="stream, sound, modes, cache, loading"):
        memory.run(part=["weather"])


@pytest.mark.slow
def test_a_longer_sound_costs_neither_time_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, as the bench does it, with minutes for an hour."""
    monkeypatch.setattr(memory, "MINUTE_S", 2.0)
    monkeypatch.setattr(memory, "HOUR_S", 20.0)
    found = values(memory.sound_rows(0.5))
    assert "MB" in found["a minute of sound: first frame, peak RSS"] and abs(found["an hour of sound: more peak RSS"]) < 100
