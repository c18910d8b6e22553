"""While a node runs: the user's interrupt, lines for the user, progress with pictures."""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.utils
import numpy as np
from comfy.cli_args import args
from PIL import Image

log = logging.getLogger(__name__)

Interrupted: type[BaseException] = comfy.model_management.InterruptProcessingException  # its layers raise it too, in any thread


def check_interrupt() -> None:
    """Raise if the user stopped the job. It clears the host's flag: call it on the executing thread only."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def tell(node_id: str | None, text: str) -> None:
    """A line in the log and, where the host can, under the node."""
    log.info("%s", text)
    from server import PromptServer  # the server imports the nodes: not while it is loading them

    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None and node_id is not None:
        send(text, node_id)


class Progress:
    """Progress of the running node in frames, with pictures."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)
        self._done = 0

    def advance(self, frames: int, picture: np.ndarray | None = None) -> None:
        """`frames` more are done; `picture` (H, W, 3) uint8 is shown. Raises the host's interrupt."""
        self._done += frames
        self._bar.update_absolute(self._done, preview=None if picture is None else _preview(picture))
        check_interrupt()  # hosts from 0.9.2 throttle updates and skip the check with them


def _preview(picture: np.ndarray) -> tuple[str, Image.Image, int | None]:
    """What the host sends to the browser: it scales to the size given, up as well, so small ones give none."""
    limit = int(getattr(args, "preview_size", 512))
    return "JPEG", Image.fromarray(picture), limit if max(picture.shape[:2]) > limit else None
