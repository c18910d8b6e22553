"""Our transformer answers what the official code of open checkpoints does; recorded by tools/record_open_models.py."""

from __future__ import annotations

import pytest

from benchmarks._open_parity import transformers
from benchmarks._seeded import recorded
from benchmarks.parity import BAR


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    return transformers()


@pytest.mark.parametrize("name", ["InfiniteTalk's transformer", "FantasyTalking's transformer", "FantasyTalking's transformer, no sound"])
def test_the_velocity_is_the_official_one(found: dict[str, float], name: str) -> None:
    assert found[name] <= BAR


def test_what_was_recorded_hears_and_says_where_it_is_from() -> None:
    """Sound changes the recorded answers: a transformer that ignored it would not pass."""
    for name in ("infinitetalk_dit", "fantasytalking_dit"):
        said, source = recorded(name)
        assert said["velocity"].std() > 0.5 and source["repository"].startswith("https://github.com/") and len(source["commit"]) == 40
    assert (said["velocity"] - said["velocity_silent"]).abs().max() > 0.1
