"""Weights that are written: all files or none, by one job at a time, and what a kill left is taken over."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tm_core.errors import InputError
from tm_core.outputs import Staged, part_of
from tm_core.weights.files import _write, save_tensors


def tensors(value: float, count: int = 10) -> dict[str, torch.Tensor]:
    return {"a": torch.full((count,), value)}


def value_of(path: Path) -> float:
    return float(load_file(path)["a"][0])


def test_two_jobs_of_one_name_one_wins_and_one_is_told(tmp_path: Path) -> None:
    """Both begin at once, many times; the file is one of theirs, whole, and every other job says so."""
    path, told = tmp_path / "w.safetensors", []

    def job(value: int, start: threading.Barrier) -> None:
        start.wait()
        try:
            save_tensors({path: tensors(value, 2_000_000)})
        except InputError as error:
            told.append(error)

    for _ in range(5):
        before, start = len(told), threading.Barrier(2)
        jobs = [threading.Thread(target=job, args=(value, start)) for value in (1, 2)]
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join()
        assert len(told) - before <= 1 and value_of(path) in (1, 2) and list(tmp_path.iterdir()) == [path]
    assert told and all("another job is writing it" in str(error) for error in told)


def test_a_job_that_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors({path: tensors(1)})
    with Staged(path) as part:
        part.write_bytes(b"begun")
        with pytest.raises(InputError, match="another job is writing it"):
            save_tensors({path: tensors(2)})
        assert part.read_bytes() == b"begun" and value_of(path) == 1
        save_file(tensors(3), str(part))
    assert value_of(path) == 3 and list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    part_of(path).write_bytes(b"x" * 10**6)
    save_tensors({path: tensors(1)})
    assert value_of(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_of_two_files_none_is_replaced_where_one_cannot_be(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tensors({first: tensors(1), second: tensors(1)})
    with pytest.raises(InputError):
        save_tensors({first: tensors(2), tmp_path / "none" / "c.safetensors": tensors(2)})
    with pytest.raises(TypeError):
        save_tensors({first: tensors(2), second: tensors(2)}, {"bad": 1})  # type: ignore[dict-item]
    assert value_of(first) == value_of(second) == 1 and sorted(tmp_path.iterdir()) == [first, second]


def test_the_file_is_what_safetensors_writes_and_no_other_name_is_used(tmp_path: Path) -> None:
    content = {
        "b.weight": torch.randn(3, 5), "a": torch.arange(7), "half": torch.randn(2, 2).half(), "bf": torch.randn(4).bfloat16(),
        "empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "flag": torch.tensor([True, False, True]), "turned": torch.randn(4, 6).T}
    save_tensors({tmp_path / "ours.safetensors": content}, {"made": "by \u00fcs"})
    save_file({k: v.contiguous() for k, v in content.items()}, tmp_path / "theirs.safetensors", {"made": "by \u00fcs"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    read = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in content.items())


def test_the_lock_stays_on_the_file_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with Staged(path) as part:
        before = part.stat().st_ino
        _write(part, tensors(1.0), None)
        assert part.stat().st_ino == before and [p.name for p in tmp_path.iterdir()] == [part.name]
        with pytest.raises(InputError, match="another job"):
            save_tensors({path: tensors(2.0)})
    assert value_of(path) == 1.0
