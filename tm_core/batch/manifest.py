"""A manifest: what to animate, one item a line, as CSV with a header or as JSON lines.

Columns are those of `COLUMNS`; image, audio and out are needed, the rest are options of one item. image, audio and mask are
paths relative to the manifest, out is relative to the output folder and stays in it. All problems are reported at once, with
their line numbers, before anything runs. Non-goals: whether a file really is a picture or a sound; the item says so when it runs.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .. import app
from ..errors import InputError, one_line
from ..inputs import check_file

NEEDED = ("image", "audio", "out")
COLUMNS = (*NEEDED, "seed", "steps", "speaking", "face", "mask")
SUFFIX, STAGING = ".mp4", ".batch"
DELIMITERS = ",;\t"
REMEDY = f"a manifest is CSV with a header, or one JSON object a line, of {', '.join(COLUMNS)}"
Locate = Callable[[str], Path]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How one item is made."""

    seed: int = 0
    steps: int | None = None
    speaking: str = "auto"
    face: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video to make; `out` is its name in the output folder, with forward slashes."""

    line: int
    image: Path
    audio: Path
    out: str
    mask: Path | None = None
    options: Options = field(default_factory=Options)

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


def read_manifest(path: Path) -> list[Item]:
    """The items of a file; ManifestError names every problem, InputError a file that cannot be read at all."""
    check_file("manifest", path, REMEDY)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("manifest", path, f"cannot be read as UTF-8 text ({error})", "save it as UTF-8") from error
    folder = path.resolve().parent
    return parse_manifest(text, lambda name: folder / name, str(path))


def parse_manifest(text: str, locate: Locate, name: str = "manifest") -> list[Item]:
    """The items of a text; `locate` turns a path as written into the one to open (InputError: not allowed)."""
    problems: list[Problem] = []
    items = []
    names: list[tuple[int, str]] = []  # of lines with other problems too
    for line, row in _rows(text, name, problems):
        found: list[str] = []
        out = _out(row["out"], found) if "out" in row else None
        item = _item(line, row, out, locate, found)
        problems += [Problem(line=line, text=t) for t in found]
        items += [] if item is None else [item]
        names += [] if out is None else [(line, out)]
    problems += _duplicates(names)
    if problems:
        raise ManifestError(name, problems)
    if not items:
        raise InputError("manifest", name, "no items in it", REMEDY)
    return items


# -- rows: line number and the cells that are not empty ---------------------------------------------------

Row = Mapping[str, Any]


def _rows(text: str, name: str, problems: list[Problem]) -> Iterator[tuple[int, Row]]:
    if not text.strip():
        raise InputError("manifest", name, "is empty", REMEDY)
    return _json_rows(text, problems) if text.lstrip().startswith("{") else _csv_rows(text, problems)


def _json_rows(text: str, problems: list[Problem]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(Problem(line=number, text=f"is no JSON ({error}); write one object a line"))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(line=number, text="is no JSON object; write one object a line"))
            continue
        _check_columns(number, row, problems)
        yield number, {k: v for k, v in row.items() if k in COLUMNS and v not in (None, "")}


def _csv_rows(text: str, problems: list[Problem]) -> Iterator[tuple[int, Row]]:
    first = text.lstrip().splitlines()[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(DELIMITERS, key=first.count), skipinitialspace=True)
    header: list[str] = []
    for cells in reader:
        if not any(c.strip() for c in cells):
            continue
        if not header:
            header = [c.strip() for c in cells]
            _check_header(reader.line_num, header, problems)
            continue
        if len(cells) > len(header):
            problems.append(Problem(
                line=reader.line_num, text=f"{len(cells)} cells under {len(header)} columns; quote a cell with a separator in it"))
        yield reader.line_num, {k: c.strip() for k, c in zip(header, cells, strict=False) if k in COLUMNS and c.strip()}


def _check_header(line: int, header: Sequence[str], problems: list[Problem]) -> None:
    _check_columns(line, header, problems)
    twice = sorted({c for c in header if header.count(c) > 1 and c})
    if twice:
        problems.append(Problem(line=line, text=f"columns given twice: {', '.join(twice)}; keep one of each"))


def _check_columns(line: int, names: Sequence[str] | Row, problems: list[Problem]) -> None:
    unknown = [n for n in names if n not in COLUMNS]
    if unknown:
        told = ", ".join(n or "(no name)" for n in unknown)
        problems.append(Problem(line=line, text=f"unknown columns: {told}; known are {', '.join(COLUMNS)}"))


# -- one item --------------------------------------------------------------------------------------------


def _item(line: int, row: Row, out: str | None, locate: Locate, problems: list[str]) -> Item | None:
    """The item of a row, or None with everything that is wrong with it added to `problems`."""
    missing = [n for n in NEEDED if n not in row]
    if missing:
        problems.append(f"{', '.join(missing)}: nothing given; every item needs {', '.join(NEEDED)}")
    files = {n: _file(n, row[n], locate, problems) for n in ("image", "audio", "mask") if n in row}
    options = _options(row, problems)
    image, audio = files.get("image"), files.get("audio")
    if image is None or audio is None or out is None or options is None:
        return None
    return Item(line=line, image=image, audio=audio, out=out, mask=files.get("mask"), options=options)


def _file(name: str, value: Any, locate: Locate, problems: list[str]) -> Path | None:
    if not isinstance(value, str):
        problems.append(f"{name}: {value}: is no path; write it as text")
        return None
    try:
        path = locate(value)
        check_file(name, path, "check the path, it is relative to the manifest")
    except InputError as error:
        problems.append(str(error))
        return None
    except (OSError, ValueError) as error:  # a name too long, a NUL
        problems.append(f"{name}: {value[:80]!r}: is no usable path ({error}); check it")
        return None
    return path


def _out(value: Any, problems: list[str]) -> str | None:
    """A name below the output folder, normalised."""
    text = str(value).replace("\\", "/")
    name = PurePosixPath(os.path.normpath(text).replace("\\", "/"))
    rule = None
    if name.is_absolute() or name.parts[:1] == ("..",) or ":" in text or "\0" in text:
        rule = "is not below the output folder; give a name relative to it"
    elif name.suffix.lower() != SUFFIX:
        rule = f"is no {SUFFIX} file; end the name in {SUFFIX}"
    elif name.parts[0] == STAGING:
        rule = f"{STAGING} is where unfinished videos are kept; choose another folder"
    if rule:
        problems.append(f"out: {value}: {rule}")
        return None
    return str(name)


def _options(row: Row, problems: list[str]) -> Options | None:
    before = len(problems)
    whole = {n: _whole(n, row[n], problems) for n in ("seed", "steps", "face") if n in row}
    speaking = str(row.get("speaking", "auto"))
    if len(problems) > before:
        return None
    options = Options(seed=whole.get("seed") or 0, steps=whole.get("steps"), face=whole.get("face"), speaking=speaking)
    try:
        app.check_options(seed=options.seed, steps=options.steps, speaking=options.speaking)
        if options.face is not None and options.face < 0:
            raise InputError("face", options.face, "faces are counted from 0, from the left", "leave it out for the only one")
    except InputError as error:
        problems.append(str(error))
        return None
    return options


def _whole(name: str, value: Any, problems: list[str]) -> int | None:
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(value)
        return int(value)
    except (TypeError, ValueError):
        problems.append(f"{name}: {value}: is no whole number; give one, or leave it out")
        return None


def _duplicates(names: Sequence[tuple[int, str]]) -> Iterator[Problem]:
    """Names that are one file on some disk (capitals)."""
    seen: dict[str, int] = {}
    for line, out in names:
        first = seen.setdefault(out.casefold(), line)
        if first != line:
            yield Problem(line=line, text=f"out: {out}: line {first} writes it too; give each item a name of its own")
