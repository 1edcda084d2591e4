"""The thread polls its owner, can be woken and stopped, and keeps nobody alive."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from typing import Any

from alternator_lb import refresher as refresher_module
from alternator_lb.refresher import Refresher


class Owner:
    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.polled = threading.Semaphore(0)

    def poll(self) -> float:
        self.polled.release()
        if self.delay < 0:
            raise ValueError("poll failed")
        return self.delay


def test_it_polls_at_once_and_after_each_delay() -> None:
    owner = Owner(0.001)
    refresher = Refresher(owner, "test")
    try:
        for _ in range(5):
            assert owner.polled.acquire(timeout=10)
    finally:
        refresher.stop()
    assert not refresher.alive


def test_a_wake_brings_the_next_poll_forward() -> None:
    owner = Owner(3600)
    refresher = Refresher(owner, "test")
    try:
        assert owner.polled.acquire(timeout=10)
        refresher.wake()
        assert owner.polled.acquire(timeout=10)
    finally:
        refresher.stop()


def test_a_poll_that_fails_does_not_end_the_thread() -> None:
    owner = Owner(-1)
    refresher = Refresher(owner, "test")
    try:
        assert owner.polled.acquire(timeout=10)
        refresher.wake()
        assert owner.polled.acquire(timeout=10)
    finally:
        refresher.stop()


def test_it_ends_when_its_owner_is_gone() -> None:
    owner = Owner(3600)
    refresher = Refresher(owner, "test")
    assert owner.polled.acquire(timeout=10)
    gone = weakref.ref(owner)
    del owner
    refresher._thread.join(timeout=10)
    gc.collect()
    assert gone() is None
    assert not refresher.alive


def test_stop_from_its_own_thread_and_twice() -> None:
    class Stopping(Owner):
        refresher: Refresher | None = None

        def poll(self) -> float:
            self.polled.acquire(timeout=10)
            assert self.refresher is not None
            self.refresher.stop()
            return 3600

    owner = Stopping(0)
    owner.refresher = refresher = Refresher(owner, "test")
    owner.polled.release()
    refresher._thread.join(timeout=10)
    assert not refresher.alive
    refresher.stop()


class Mailbox:
    """Takes the place of the queue: notes how long it is waited for, then says stop."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def get(self, timeout: float) -> Any:
        self.waited.append(timeout)
        return refresher_module._STOP

    def get_nowait(self) -> Any:
        raise queue.Empty


def test_after_a_poll_that_failed_it_pauses() -> None:
    owner, mailbox = Owner(-1), Mailbox()
    refresher_module._run(weakref.ref(owner), mailbox)  # type: ignore[arg-type]
    assert mailbox.waited == [10.0]


def test_several_wakes_are_one() -> None:
    mailbox: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Once(Owner):
        def poll(self) -> float:
            mailbox.put(refresher_module._STOP)
            return super().poll()

    owner = Once(3600)
    for _ in range(3):
        mailbox.put(refresher_module._WAKE)
    refresher_module._run(weakref.ref(owner), mailbox)
    assert owner.polled.acquire(blocking=False)
    assert not owner.polled.acquire(blocking=False)
