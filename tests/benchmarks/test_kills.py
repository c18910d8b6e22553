"""`bench kills`: a few of its fifty, and that it counts what it is there to find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import kills
from tm_core.errors import InputError


@pytest.mark.slow
def test_a_checkpoint_that_is_saved_all_the_time_survives(tmp_path: Path) -> None:
    rows = {r["what"]: r for r in kills.trained(tmp_path, 1)}
    assert rows["train: killed"]["value"] == 1 and all(r["ok"] is not False for r in rows.values()), rows


CARELESS = """
import sys, time
from pathlib import Path
target = Path(sys.argv[1])
target.write_bytes(b"half")
target.with_name(target.name + ".tm.part").write_bytes(b"x")
target.with_name("stranger.tmp").touch()
time.sleep(float(sys.argv[2]))
target.write_bytes(b"whole")
"""


def test_a_writer_without_a_temporary_name_is_found(tmp_path: Path) -> None:
    target, command = tmp_path / "a.bin", [sys.executable, "-c", CARELESS, str(tmp_path / "a.bin")]
    rows = {r["what"]: r for r in kills._killed(
        "x", [*command, "60"], target, 1, lambda path: path.read_bytes() == b"whole", end=[*command, "0"])}
    assert rows["x: neither the old file nor the new whole one"]["value"] == 1
    assert rows["x: other files after a kill"]["value"] == 1 and rows["x: left behind by the run after"]["ok"] is False


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="bench kills has animate, batch, train, host"):
        kills.run(part=["laptop"])


def test_there_are_fifty() -> None:
    assert sum(kills.KILLS.values()) == 50
