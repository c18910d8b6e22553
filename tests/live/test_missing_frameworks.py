"""Without LiveKit or Pipecat the adapters say what to install. With them: tests/frameworks."""

from __future__ import annotations

import importlib
import sys

import pytest

from tm_core.errors import InputError


@pytest.mark.parametrize("name", ["livekit", "pipecat"])
def test_an_adapter_without_its_framework_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"tm_core.live.{name}_avatar"
    for loaded in [module, *(m for m in sys.modules if m.split(".")[0] == name)]:
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(InputError) as told:
        importlib.import_module(module)
    assert told.value.field == name and told.value.remedy == f"run: pip install 'talking-machines[{name}]'"
