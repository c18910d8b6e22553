"""The mailbox between two threads: bound, policies, epochs, errors, nobody left waiting."""

from __future__ import annotations

import threading
import time

import pytest

from tm_core.streaming.mailbox import Closed, Epoch, Mailbox


def test_put_waits_while_full_and_take_makes_room() -> None:
    box: Mailbox[int] = Mailbox(2)
    done: list[int] = []

    def produce() -> None:
        for i in range(5):
            box.put(i)
            done.append(i)
        box.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.1)
    assert done == [0, 1] and len(box) == 2
    assert list(box) == [0, 1, 2, 3, 4]
    thread.join(5)
    assert not thread.is_alive()


def test_drop_oldest_never_blocks_and_keeps_the_newest() -> None:
    box: Mailbox[int] = Mailbox(2, "drop_oldest")
    for i in range(5):
        box.put(i)
    box.finish()
    assert list(box) == [3, 4]


def test_items_of_a_past_epoch_vanish() -> None:
    box: Mailbox[str] = Mailbox(4)
    old = box.epoch.number
    box.put("waiting", old)
    new = box.epoch.advance()
    assert not box.put("late", old)
    assert box.put("fresh", new)
    box.finish()
    assert list(box) == ["fresh"]


def test_an_error_overtakes_waiting_items() -> None:
    box: Mailbox[int] = Mailbox(2)
    box.put(1)
    box.finish(OSError("no"))
    with pytest.raises(OSError, match="no"):
        box.take()


def test_stop_releases_a_blocked_producer() -> None:
    box: Mailbox[int] = Mailbox(1)
    raised = threading.Event()

    def produce() -> None:
        try:
            while True:
                box.put(0)
        except Closed:
            raised.set()

    threading.Thread(target=produce, daemon=True).start()
    time.sleep(0.05)
    box.stop()
    assert raised.wait(5)


def test_poll_runs_while_waiting_and_its_error_leaves_take() -> None:
    box: Mailbox[int] = Mailbox(1)
    calls = []

    def poll() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        box.take(poll)


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        Mailbox(0)


def test_one_interruption_empties_every_mailbox_and_lets_a_blocked_producer_go() -> None:
    epoch = Epoch()
    first: Mailbox[int] = Mailbox(1, epoch=epoch)
    second: Mailbox[int] = Mailbox(4, epoch=epoch)
    old = epoch.number
    first.put(0, old)
    second.put(0, old)
    kept: list[bool] = []
    blocked = threading.Thread(target=lambda: kept.append(first.put(1, old)))
    blocked.start()
    time.sleep(0.05)
    epoch.advance()
    blocked.join(5)
    assert kept == [False] and len(first) == len(second) == 0
    assert second.put(2) and second.take_tagged() == (1, 2)
