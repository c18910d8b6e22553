"""A bounded mailbox between two threads: a limit, a policy for when it is full, and an epoch.

Errors travel through it as well: whoever closes it with an error makes the other side raise it. Non-goals:
more than one process, priorities. Paper section 4 (disaggregated DiT and VAE).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
OnFull = Literal["block", "drop_oldest"]

WAIT_S = 0.02  # how often a waiting side looks at what cannot notify it (interrupt flags of a host)


class Closed(Exception):
    """The other side is gone and nothing is left to take (or nobody is left to take it)."""


class Mailbox(Generic[Item]):
    """FIFO of at most `size` items; `put` blocks or drops the oldest, items of an older epoch vanish."""

    def __init__(self, size: int, on_full: OnFull = "block") -> None:
        if size < 1:
            raise ValueError(f"size: {size}: a mailbox holds at least one item")
        self._size, self._on_full = size, on_full
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._epoch = 0
        self._finished = False  # the producer has put its last item
        self._stopped = False  # the consumer takes no more
        self._error: BaseException | None = None

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)

    @property
    def epoch(self) -> int:
        """Number of `flush` calls so far; an item put with an older epoch is discarded on arrival."""
        with self._changed:
            return self._epoch

    def flush(self) -> int:
        """Drop what waits and begin the next epoch, whose number is returned."""
        with self._changed:
            self._items.clear()
            self._epoch += 1
            self._changed.notify_all()
            return self._epoch

    def put(self, item: Item, epoch: int | None = None) -> bool:
        """Add an item, False if it belongs to a past epoch; raises Closed once the consumer has stopped."""
        with self._changed:
            while self._on_full == "block" and len(self._items) >= self._size and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise Closed
            if epoch is not None and epoch != self._epoch:
                return False
            while len(self._items) >= self._size:
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self, poll: Callable[[], None] | None = None) -> Item:
        """The oldest item; waits for it, calling `poll` (which may raise) meanwhile.

        Raises Closed after the last item, or the producer's error, which overtakes items that still wait.
        """
        while True:
            if poll is not None:
                poll()  # outside the lock: it is foreign code
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                    return item
                if self._finished or self._stopped:
                    raise Closed
                self._changed.wait(None if poll is None else WAIT_S)

    def finish(self, error: BaseException | None = None) -> None:
        """Producer's side: nothing follows (or: it failed with `error`)."""
        with self._changed:
            self._finished, self._error = True, self._error or error
            self._changed.notify_all()

    def stop(self) -> None:
        """Consumer's side: nobody takes any more; a blocked `put` raises Closed."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                yield self.take()
            except Closed:
                return
