"""Names in graphs stay in the host's folders; tests/host tries the same on a running one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def paths(pack: Callable[[str], ModuleType]) -> ModuleType:
    return pack("nodes.host.paths")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, one like it beside it, and links that its user made."""
    top = tmp_path_factory.mktemp("host")
    for name in ("input", "input-else", "elsewhere"):
        (top / name).mkdir()
    (top / "input" / "linked").symlink_to(top / "elsewhere", target_is_directory=True)
    (top / "elsewhere" / "a.wav").touch()
    return top / "input"


ESCAPES = ["..", "../x", "a/../../x", "/etc/passwd", "/", "../input-else/x", "linked/../../x", "./../x", "a/b/../../../input-else"]
IMPOSSIBLE = [
    "C:\\x", "C:x", "c:/x", "\\\\host\\share\\x", "//host/share/x", "\\\\?\\C:\\x", "a\0b", "\0", "a\nb", "\x1b[2J", "\ud800", "x" * 300,
    "\u00e9" * 120, "a/" * 2000]


@pytest.mark.parametrize("name", [*ESCAPES, *IMPOSSIBLE], ids=lambda n: ascii(n)[:30])
def test_no_name_leaves_the_folder(paths: ModuleType, base: Path, name: str) -> None:
    with pytest.raises(paths.InputError) as caught:
        paths.below(str(base), name, "portraits", "the input folder", "put it there")
    assert str(caught.value).startswith("portraits: ") and str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, 3, 2.5, [], ["a"], {}, True, b"a"], ids=str)
def test_what_is_no_text_is_no_name(paths: ModuleType, base: Path, value: object) -> None:
    with pytest.raises(paths.InputError, match="no text"):
        paths.below(str(base), value, "portraits", "the input folder", "put it there")


@pytest.mark.parametrize(
    "name", ["a.wav", "a/b/c.wav", "", ".", "a/../b.wav", "..a", "a..", "...", "~", "~root/x", "$HOME", "%year%", "\u00fcn", "a b",
             "linked/a.wav"], ids=ascii)
def test_names_in_the_folder_are_taken_as_they_are(paths: ModuleType, base: Path, name: str) -> None:
    assert paths.below(str(base), name, "x", "the input folder", "") == Path(os.path.abspath(base / name))


def test_a_full_name_in_the_folder_is_one_too(paths: ModuleType, base: Path) -> None:
    assert paths.below(str(base), str(base / "a.wav"), "x", "the input folder", "") == base / "a.wav"
