"""`talking-machines`: the engine from a shell (design section 8).

Bad input is one line on stderr and exit code 2, Ctrl-C is 130, a closed terminal 129; all leave nothing behind. Results are JSON on
stdout, everything else goes to stderr. Non-goals: computing anything itself.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import FrameType

from ..errors import Cancelled, InputError

BAD_INPUT, INTERRUPTED = 2, 130


def _ended(number: int, _frame: FrameType | None) -> None:
    """Unwinds, so that unfinished files go; a second signal does not disturb that."""
    for other in _ending():
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _ending() -> Iterator[signal.Signals]:
    """Signals that ask a process to end (those of Ctrl-C apart); Windows has others. None that was to be ignored (nohup)."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        found = getattr(signal, name, None)
        if found is not None and signal.getsignal(found) is not signal.SIG_IGN:
            yield found


def main() -> None:
    """The console script; ends the process with the exit code."""
    for number in _ending():
        signal.signal(number, _ended)
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
