"""Errors a user can act on.

Every error of bad input names the field, the value, the rule and the remedy in one line; the command
line prints that line and exits with 2, a ComfyUI node shows it as its error.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one line naming field, value, rule and remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy
        super().__init__(" ".join(f"{field}: {value}: {rule}; {remedy}".split()))


class Cancelled(Exception):
    """The user stopped the work; not a failure."""
