"""A tally loses no count between threads, and reading it changes nothing."""

from __future__ import annotations

import threading

from alternator_lb.counters import Tally


def test_each_tick_counts_one_and_reading_none() -> None:
    tally = Tally()
    for expected in range(1000):
        assert tally.value == tally.value == expected
        tally.tick()


def test_threads_and_readers_together_lose_nothing() -> None:
    tally = Tally()
    seen = []

    def count() -> None:
        for _ in range(20_000):
            tally.tick()

    def read() -> None:
        for _ in range(1_000):
            seen.append(tally.value)

    threads = [threading.Thread(target=target) for target in (count, count, read, count, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.value == tally.value == 60_000
    assert all(0 <= value <= 60_000 for value in seen)
