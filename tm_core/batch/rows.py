"""A table as people and programs write it: CSV or JSON, as rows with line numbers.

CSV: commas, semicolons or tabs, with a header; cells may be quoted. JSON: an object a line, an array of objects, or an object with
the array under `items`. Empty lines, and lines of `# words`, are nothing. Capitals of column names do not count. Non-goals: what
the cells mean (manifest).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ManifestRow = Mapping[str, Any]  # the cells that are not empty, text without spaces round it
Pairs = list[tuple[str, Any]]
DELIMITERS = ",;\t"
COMMENT = re.compile(r"\s*#(\s|#|$)")
SEPARATOR = re.compile(r"(?i)sep=([,;\t])")  # a first line by which spreadsheets say how cells are parted
ITEMS = "items"
BLANK = re.compile(r"[ \t\n]*")
ESCAPES = r"a backslash in JSON is written \\, or use /"
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _Object(pairs))


class _Object(Pairs):
    """A JSON object, its repeated names included."""


class Rows:
    """The rows of a text, one after the other; `problems` are (line, what is wrong) of what was read so far."""

    def __init__(self, text: str, columns: Sequence[str], needed: Sequence[str]) -> None:
        self._columns, self._needed = columns, needed
        lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._lines = ["" if COMMENT.match(line) else line for line in lines]
        self._text = "\n".join(self._lines)
        self.problems: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[tuple[int, ManifestRow]]:
        return self._json() if self._text.lstrip()[:1] in ("{", "[") else self._csv()

    # -- CSV

    def _csv(self) -> Iterator[tuple[int, ManifestRow]]:
        header: list[str] | None = None
        for line, cells in self._cells():
            if header is None:
                header = [_column(c) for c in cells]
                if not self._good_header(line, header):
                    return
                continue
            if any("\n" in c for c in cells):
                self.problems.append((line, "a quotation mark is opened and not closed in this line; close it"))
            elif any(cells[len(header) :]) or any(c for c, name in zip(cells, header, strict=False) if not name):
                self.problems.append((line, f"{len(cells)} cells under {len(header)} columns; quote a cell with a separator in it"))
            yield line, self._known(zip(header, cells, strict=False))

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of every row that has any."""
        first = next((n for n, text in enumerate(self._lines) if text.strip()), 0)
        told = SEPARATOR.fullmatch(self._lines[first].strip(" "))
        if told:
            self._lines[first] = ""
            first += 1
        delimiter = told[1] if told else max(DELIMITERS, key=self._lines[first].count if first < len(self._lines) else "".count)
        reader = csv.reader(io.StringIO("\n".join(self._lines)), delimiter=delimiter, skipinitialspace=delimiter != "\t")
        line = 1
        try:
            for cells in reader:
                cells = [c.strip() for c in cells]
                if any(cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            self.problems.append((line, f"cannot be read as CSV ({error}); correct this line"))

    def _good_header(self, line: int, header: Sequence[str]) -> bool:
        """Whether a first line names columns; says what is wrong with it."""
        named = [name for name in header if name]
        if not set(named) & set(self._columns):
            self.problems.append((line, f"names no columns; begin with a line as {','.join(self._needed)}"))
            return False
        self._check_names(line, named)
        missing = [name for name in self._needed if name not in named]
        if missing:
            self.problems.append((line, f"columns that are missing: {', '.join(missing)}; every item needs {', '.join(self._needed)}"))
        return not missing

    # -- JSON

    def _json(self) -> Iterator[tuple[int, ManifestRow]]:
        for line, value in self._values():
            if not isinstance(value, _Object):
                self.problems.append((line, "is no JSON object; write one object for each item"))
                continue
            pairs = [(_column(name), cell.strip() if isinstance(cell, str) else cell) for name, cell in value]
            self._check_names(line, [name for name, _ in pairs])
            yield line, self._known(pairs)

    def _values(self) -> Iterator[tuple[int, Any]]:
        try:
            whole = _DECODER.decode(self._text)
        except (ValueError, RecursionError) as error:
            yield from self._each_line(error)
            return
        start = self._text.index("[") if isinstance(whole, list) and not isinstance(whole, _Object) else self._items_at(whole)
        if start is None:
            yield self._line(self._skip(0)), whole
            return
        yield from self._elements(start)

    def _each_line(self, error: ValueError | RecursionError) -> Iterator[tuple[int, Any]]:
        """An object a line; where no line is one, the text was meant as a whole, and `error` says what is wrong with it."""
        found: list[tuple[int, Any]] = []
        wrong: list[tuple[int, str]] = []
        for number, line in enumerate(self._lines, 1):
            if line.strip():
                try:
                    found.append((number, _DECODER.decode(line)))
                except (ValueError, RecursionError) as reason:
                    wrong.append((number, f"is no JSON ({_reason(reason)}); write one object a line"))
        if not any(isinstance(value, _Object) for _, value in found):
            at = getattr(error, "lineno", 1)
            found, wrong = [], [(at, f"is no JSON ({_reason(error)}); correct it")]
        self.problems += wrong
        yield from found

    def _items_at(self, whole: Any) -> int | None:
        """Where the array of items begins in an object that is nothing but that."""
        if [name for name, _ in whole] != [ITEMS] or not isinstance(whole[0][1], list) or isinstance(whole[0][1], _Object):
            return None
        return self._text.index("[")

    def _elements(self, at: int) -> Iterator[tuple[int, Any]]:
        """What is in the array that begins at a place of a text that is JSON as a whole."""
        line, seen = 1, 0
        at = self._skip(at + 1)
        while self._text[at] != "]":
            line, seen = line + self._text.count("\n", seen, at), at
            value, end = _DECODER.raw_decode(self._text, at)
            yield line, value
            at = self._skip(end)
            at = self._skip(at + 1) if self._text[at] == "," else at

    def _skip(self, at: int) -> int:
        found = BLANK.match(self._text, at)
        return found.end() if found else at

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    # -- both

    def _known(self, pairs: Iterator[tuple[str, Any]] | Pairs) -> ManifestRow:
        return {name: cell for name, cell in pairs if name in self._columns and cell not in (None, "")}

    def _check_names(self, line: int, names: Sequence[str]) -> None:
        unknown = [n for n in names if n not in self._columns]
        if unknown:
            told = ", ".join(n or "(no name)" for n in unknown)
            self.problems.append((line, f"unknown columns: {told}; known are {', '.join(self._columns)}"))
        twice = sorted({n for n in names if names.count(n) > 1 and n in self._columns})
        if twice:
            self.problems.append((line, f"columns given twice: {', '.join(twice)}; keep one of each"))


def _column(name: str) -> str:
    """A column's name as it is known: Paste Back is paste_back."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    said = str(error.msg if isinstance(error, json.JSONDecodeError) else error)
    return f"{said}: {ESCAPES}" if "escape" in said else said
