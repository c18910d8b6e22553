"""One token that says stop; checked before every denoising step and at every chunk."""

from __future__ import annotations

import threading

from ..errors import Cancelled


class CancelToken:
    """Set once, from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled once cancelled."""
        if self.cancelled:
            raise Cancelled


class LinkedToken(CancelToken):
    """Cancelled by itself or by its parent; cancelling it leaves the parent alone."""

    def __init__(self, parent: CancelToken | None) -> None:
        super().__init__()
        self._parent = parent

    @property
    def cancelled(self) -> bool:
        """True once this token or its parent was cancelled."""
        return super().cancelled or (self._parent is not None and self._parent.cancelled)
