"""`talking-machines`: the engine from a shell (design section 8).

Bad input is one line on stderr and exit code 2, Ctrl-C is 130, both leave nothing behind. Results are JSON on
stdout, everything else goes to stderr. Non-goals: computing anything itself.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from ..errors import Cancelled, InputError

BAD_INPUT, INTERRUPTED = 2, 130


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # unwinds, so that part files go


def main() -> None:
    """The console script; ends the process with the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"talking-machines: {error.name} is not installed; run: pip install 'talking-machines[cli]'")
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_INPUT)
    except (KeyboardInterrupt, Cancelled):
        sys.stderr.write("stopped\n")
        sys.exit(INTERRUPTED)
