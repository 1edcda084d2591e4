"""The thread polls its owner, can be woken and stopped, and keeps nobody alive."""

from __future__ import annotations

import gc
import threading
import weakref

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
