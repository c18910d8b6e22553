"""Our transformer answers what the official code of open checkpoints does; recorded by parity/recorders/open_models.py."""

from __future__ import annotations

import pytest

from parity.golden import BAR, recorded
from parity.open_models import transformers


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
