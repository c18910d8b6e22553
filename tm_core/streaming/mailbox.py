"""A bounded mailbox between two threads: a limit, a policy for when it is full, and an epoch.

Errors travel through it as well: whoever closes it with an error makes the other side raise it. Non-goals:
more than one process, priorities. Paper section 4 (disaggregated DiT and VAE).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")
OnFull = Literal["block", "drop_oldest"]

WAIT_S = 0.02  # how often a waiting side looks at what cannot notify it (interrupt flags of a host)


class Closed(Exception):
    """The other side is gone and nothing is left to take (or nobody is left to take it)."""


class Epoch:
    """The number of interruptions so far, shared by all mailboxes of a pipeline: what was made before the last one is not wanted.

    Its condition is that of its mailboxes, so that one `advance` empties all of them at once and wakes who waits.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._number = 0

    @property
    def number(self) -> int:
        """The current epoch, from 0."""
        with self.changed:
            return self._number

    def advance(self) -> int:
        """Begin the next epoch, whose number is returned: items of the past ones are neither taken nor put any more."""
        with self.changed:
            self._number += 1
            self.changed.notify_all()
            return self._number


class Tagged(NamedTuple, Generic[T]):
    """An item and the epoch it was made in."""

    epoch: int
    item: T


class Mailbox(Generic[T]):
    """FIFO of at most `size` items; `put` blocks or drops the oldest, items of a past epoch vanish."""

    def __init__(self, size: int, on_full: OnFull = "block", epoch: Epoch | None = None) -> None:
        if size < 1:
            raise ValueError(f"size: {size}: a mailbox holds at least one item")
        self._size, self._on_full = size, on_full
        self._items: deque[Tagged[T]] = deque()
        self._epoch = epoch or Epoch()
        self._changed = self._epoch.changed
        self._finished = False  # the producer has put its last item
        self._stopped = False  # the consumer takes no more
        self._error: BaseException | None = None

    def __len__(self) -> int:
        with self._changed:
            self._drop_past()
            return len(self._items)

    @property
    def epoch(self) -> Epoch:
        """Which items are wanted."""
        return self._epoch

    def put(self, item: T, epoch: int | None = None) -> bool:
        """Add an item made in `epoch` (None: the current one), False if that is past; raises Closed once the consumer has stopped."""
        with self._changed:
            made = self._epoch.number if epoch is None else epoch
            self._drop_past()
            while self._on_full == "block" and len(self._items) >= self._size and not self._stopped and made == self._epoch.number:
                self._changed.wait()
                self._drop_past()
            if self._stopped:
                raise Closed
            if made != self._epoch.number:
                return False
            while len(self._items) >= self._size:
                self._items.popleft()
            self._items.append(Tagged(made, item))
            self._changed.notify_all()
            return True

    def take(self, poll: Callable[[], None] | None = None) -> T:
        """The oldest item of the current epoch; waits for it, calling `poll` (which may raise) meanwhile.

        Raises Closed after the last item, or the producer's error, which overtakes items that still wait.
        """
        return self.take_tagged(poll).item

    def take_tagged(self, poll: Callable[[], None] | None = None) -> Tagged[T]:
        """As `take`, with the item's epoch."""
        while True:
            if poll is not None:
                poll()  # outside the lock: it is foreign code
            with self._changed:
                self._drop_past()
                if self._error is not None:
                    raise self._error
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                    return item
                if self._finished or self._stopped:
                    raise Closed
                self._changed.wait(None if poll is None else WAIT_S)

    def _drop_past(self) -> None:
        while self._items and self._items[0].epoch != self._epoch.number:
            self._items.popleft()

    @property
    def error(self) -> BaseException | None:
        """What the producer failed with."""
        with self._changed:
            return self._error

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

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                yield self.take()
            except Closed:
                return
