"""Errors a user can act on.

Every error of bad input names the field, the value, the rule and the remedy in one line; the command
line prints that line and exits with 2, a ComfyUI node shows it as its error. Values come from files and graphs of
anybody: what cannot be printed is shown as its code, and what is long is shortened.
"""

from __future__ import annotations

LONGEST = 2000  # characters of a part of the line


class InputError(ValueError):
    """Bad input: one line naming field, value, rule and remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy
        super().__init__(f"{one_line(field)}: {one_line(value)}: {one_line(rule)}; {one_line(remedy)}")


def one_line(value: object) -> str:
    """A value of anybody as part of a line that a terminal and a log can take."""
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST // 2]} ... {text[-LONGEST // 2:]}"
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Cancelled(Exception):
    """The user stopped the work; not a failure."""
