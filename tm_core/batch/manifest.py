"""A manifest: what to animate, one item a line, as CSV with a header or as JSON.

Columns are those of `COLUMNS`; image, audio and out are needed, the rest are options of one item. image, audio and mask are
paths relative to the manifest, out is relative to the output folder and stays in it. All problems are reported at once, with
their line numbers, before anything runs. Non-goals: how rows are written (rows), whether a file really is a picture or a sound;
the item says so when it runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from ..errors import InputError, one_line
from ..inputs import VideoFraming, check_file, decoded
from ..options import AnimateOptions
from ..outputs import Named
from .places import STAGING, misplaced
from .rows import ManifestRow, Rows

NEEDED = ("image", "audio", "out")
FILES = ("image", "audio", "mask")
COLUMNS = (*NEEDED, "seed", "steps", "speaking", "face", "mask", "track", "framing", "size", "paste_back")
SUFFIX = ".mp4"
REMEDY = f"a manifest is CSV with a header, or JSON, of {', '.join(COLUMNS)}"
ALL: Literal["all"] = "all"
TRUE, FALSE = frozenset({"true", "yes", "on", "1", "1.0"}), frozenset({"false", "no", "off", "0", "0.0"})
FRAMINGS: tuple[str, ...] = get_args(VideoFraming)
WHOLE = re.compile(r"([+-]?\d+)(?:[.,]0{0,2})?")  # spreadsheets write 1.0; three zeros may mean thousands
Locate = Callable[[str], Path]


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """One video to make; `out` is its name in the output folder, with forward slashes."""

    line: int
    image: Path
    audio: Path
    out: str
    mask: Path | None = None
    options: AnimateOptions = field(default_factory=AnimateOptions)

    @property
    def files(self) -> dict[str, Path]:
        """The files it is made of."""
        return {"image": self.image, "audio": self.audio, **({} if self.mask is None else {"mask": self.mask})}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with a line, in the words of the error."""

    line: int
    text: str


class ManifestError(InputError):
    """Everything that is wrong with a manifest, one line each."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        """`name`: of the file, or of the field the text came from."""
        count = f"{len(problems)} problem" + "s" * (len(problems) != 1)
        super().__init__("manifest", name, count, "nothing was made; correct these lines")
        self.problems = tuple(sorted(problems, key=lambda p: p.line))

    def __str__(self) -> str:
        return "\n".join([f"{super().__str__()}:", *(f"line {p.line}: {one_line(p.text)}" for p in self.problems)])


@dataclass(kw_only=True)
class _Found:
    """What was read so far: items that are whole, and of lines with problems too the files they name."""

    items: list[BatchItem] = field(default_factory=list)
    reads: list[tuple[int, Path]] = field(default_factory=list)
    outs: list[tuple[int, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_manifest(path: Path, out: Path, also_read: Sequence[Named] = ()) -> list[BatchItem]:
    """The items of a file for the output folder `out`; ManifestError names every problem, InputError a file that is no manifest.

    `also_read`: other files of the run that no video may be written over.
    """
    check_file("manifest", path, REMEDY)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("manifest", path, f"cannot be read ({error.strerror})", "check the file") from error
    folder = path.resolve().parent
    return parse_manifest(decoded("manifest", path, data), lambda name: folder / name, out, str(path), [("manifest", path), *also_read])


def parse_manifest(text: str, locate: Locate, out: Path, name: str = "manifest", also_read: Sequence[Named] = ()) -> list[BatchItem]:
    """The items of a text; `locate` turns a path as written into the one to open (InputError: not allowed)."""
    if not text.strip():
        raise InputError("manifest", name, "is empty", REMEDY)
    rows, found = Rows(text, COLUMNS, NEEDED), _Found()
    for line, row in rows:
        problems: list[str] = []
        item = _item(line, row, locate, found, problems)
        found.problems += [Problem(line=line, text=t) for t in problems]
        found.items += [] if item is None else [item]
    told = [*rows.problems, *misplaced(found.reads, found.outs, out, also_read)]
    found.problems += [Problem(line=line, text=text) for line, text in told]
    if found.problems:
        raise ManifestError(name, found.problems)
    if not found.items:
        raise InputError("manifest", name, "no items in it", REMEDY)
    return found.items


# -- one item --------------------------------------------------------------------------------------------


def _item(line: int, row: ManifestRow, locate: Locate, found: _Found, problems: list[str]) -> BatchItem | None:
    """The item of a row, or None with everything that is wrong with it added to `problems`."""
    missing = [n for n in NEEDED if n not in row]
    if missing:
        problems.append(f"{', '.join(missing)}: nothing given; every item needs {', '.join(NEEDED)}")
    out = _out(row["out"], problems) if "out" in row else None
    files = {n: _file(n, row[n], locate, problems) for n in FILES if n in row}
    options = _options(row, problems)
    found.outs += [] if out is None else [(line, out)]
    found.reads += [(line, path) for path in files.values() if path is not None]
    image, audio = files.get("image"), files.get("audio")
    if image is None or audio is None or out is None or options is None or problems:
        return None
    return BatchItem(line=line, image=image, audio=audio, out=out, mask=files.get("mask"), options=options)


def _text(name: str, value: Any) -> str:
    """A path as it is written; InputError for what cannot be one."""
    if not isinstance(value, str):
        raise InputError(name, value, "is no path", "write it as text")
    if any(ord(c) < 32 for c in value):
        raise InputError(name, repr(value), "has a control character in it", r"in JSON a backslash is written \\, or use /")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(name, repr(value), "has half a character in it", "correct it") from error
    return value


def _file(name: str, value: Any, locate: Locate, problems: list[str]) -> Path | None:
    try:
        path = _slashes(_text(name, value), locate)
        check_file(name, path, "check the path, it is relative to the manifest")
    except InputError as error:
        problems.append(str(error))
        return None
    return path


def _slashes(value: str, locate: Locate) -> Path:
    """The file that is meant: backslashes part folders, as on Windows, unless there is a file that has them in its name."""
    path = locate(value)
    return path if "\\" not in value or os.path.lexists(path) else locate(value.replace("\\", "/"))


def _out(value: Any, problems: list[str]) -> str | None:
    """A name below the output folder, normalised."""
    rule = None
    try:
        text = _text("out", value).replace("\\", "/")
    except InputError as error:
        problems.append(str(error))
        return None
    name = PurePosixPath(os.path.normpath(text).replace("\\", "/"))
    if name.is_absolute() or name.parts[:1] == ("..",) or ":" in text:
        rule = "is not below the output folder; give a name relative to it"
    elif name.suffix.lower() != SUFFIX:
        rule = f"is no {SUFFIX} file; end the name in {SUFFIX}"
    elif name.parts[0].casefold() == STAGING:
        rule = f"{STAGING} is where unfinished videos are kept; choose another folder"
    if rule:
        problems.append(f"out: {value}: {rule}")
        return None
    return str(name)


def _options(row: ManifestRow, problems: list[str]) -> AnimateOptions | None:
    before = len(problems)
    face = row.get("face")
    everybody = isinstance(face, str) and face.casefold() == ALL
    numbers = [name for name in ("seed", "steps", "track", "face", "size") if name in row and not (name == "face" and everybody)]
    whole = {name: _whole(name, row[name], problems) for name in numbers}
    framing = _framing(row, problems)
    if everybody and framing == "face" and len(problems) == before:
        said = "paste_back" if "paste_back" in row else "framing"
        problems.append(f"face: {face}: all faces are animated in their picture; leave out {said}")
    if len(problems) > before:
        return None
    options = AnimateOptions(
        seed=whole.get("seed") or 0, steps=whole.get("steps"), face=ALL if everybody else whole.get("face"), track=whole.get("track"),
        speaking=str(row.get("speaking", "auto")).casefold(), framing=framing, size=whole.get("size"))
    try:
        options.check()
    except InputError as error:
        problems.append(str(error))
        return None
    return options


def _whole(name: str, value: Any, problems: list[str]) -> int | None:
    try:
        if isinstance(value, str) and (found := WHOLE.fullmatch(value)):
            return int(found[1])
        if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    except ValueError:  # thousands of digits
        pass
    more = ", nor all" * (name == "face")
    problems.append(f"{name}: {str(value)[:40]}: is no whole number{more}; give one, or leave it out")
    return None


def _framing(row: ManifestRow, problems: list[str]) -> str:
    """What the video shows, by either of two columns: manifests of before say whether the face is put back into its picture."""
    named = str(row.get("framing", FRAMINGS[0])).casefold()
    if named not in FRAMINGS:
        problems.append(f"framing: {row['framing']}: is no framing; choose {' or '.join(FRAMINGS)}")
        return FRAMINGS[0]
    if "paste_back" not in row:
        return named
    said = str(row["paste_back"]).casefold()
    if said not in TRUE | FALSE:
        problems.append(f"paste_back: {row['paste_back']}: is neither yes nor no; write yes or no")
        return named
    meant = FRAMINGS[said in FALSE]
    if "framing" in row and named != meant:
        problems.append(f"framing: {row['framing']}: paste_back says {row['paste_back']}; keep one of both")
    return meant
