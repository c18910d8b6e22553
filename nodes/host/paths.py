"""Names of files and folders in graphs, which may come from anyone: they stay in the folders of the host.

Names are taken as the host takes its own: as text, so that links which the user made in those folders lead on.
Non-goals: which folders these are (folders), what is in the files.
"""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

from ...tm_core.errors import InputError

LONGEST_PART = 200  # bytes of a folder's or a file's name: disks take 255, and more is added to names that are written


def usable(name: str, field: str) -> str:
    """The name, if it can be one on every disk; InputError for drives, NUL and other control characters, and for what is too long."""
    if not isinstance(name, str):
        raise InputError(field, name, "is no text", "give a name")
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise InputError(field, name, "holds a character that no name has", "use letters, digits, - and _")
    if ntpath.splitdrive(name)[0] and not os.path.isabs(name):
        raise InputError(field, name, "names a drive or another computer", "use a name like folder/name")
    if max(len(os.fsencode(part)) for part in name.replace("\\", "/").split("/")) > LONGEST_PART or len(name) > 10 * LONGEST_PART:
        raise InputError(field, name, f"is too long, {LONGEST_PART} bytes are read", "choose a shorter one")
    return name


def below(base: str, name: str, field: str, place: str, remedy: str) -> Path:
    """A path in a folder, there or not; InputError for one elsewhere. `place` and `remedy` are for people."""
    path = Path(os.path.abspath(os.path.join(base, usable(name, field))))
    if not path.is_relative_to(os.path.abspath(base)):
        raise InputError(field, name, f"points outside {place}", remedy)
    return path
