"""Progress of `animate`: a bar on a terminal, lines in a log, nothing where it shall be quiet."""

from __future__ import annotations

import os
import sys
from io import StringIO

import pytest

from tm_core.cli import video_job


def everything(ours: int) -> bytes:
    """What a pseudo-terminal was sent until its other end was closed; it comes in parts."""
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 1 << 16))
        except OSError:  # Linux's way to say so
            return b"".join(parts)
        if not parts[-1]:
            return b"".join(parts)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal, which this system lacks")
def test_a_terminal_has_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        with video_job._bar(10, quiet=False) as advance:
            advance(4)
    shown = everything(ours).decode()
    os.close(ours)
    assert "4/10 frames" in shown and "to go" in shown
    assert shown.rstrip("\r\n").endswith(("\x1b[2K", "\x1b[1A\x1b[2K", "\x1b[?25h")), "the bar goes at the end"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setattr(sys, "stderr", StringIO())
    monkeypatch.setattr(video_job, "LINE_EVERY_S", 0.0)
    with video_job._bar(10, quiet) as advance:
        advance(4)
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert said == "" if quiet else said.startswith("4/10 frames, ") and said.count("\n") == 1
