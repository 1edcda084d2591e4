"""Tally: counts from many threads without a lock, and can be read without losing a count."""

from __future__ import annotations

import itertools
import threading

__all__ = ["Tally"]


class Tally:
    """A count that any thread may raise by calling ``tick()``.

    ``x += 1`` loses counts between threads; one step of an ``itertools.count`` does not. Reading
    takes a step too, so the steps of readers are counted and taken off again.
    """

    __slots__ = ("_lock", "_reads", "tick")

    def __init__(self) -> None:
        self.tick = itertools.count().__next__
        self._reads = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """How often ``tick`` was called."""
        with self._lock:
            count = self.tick() - self._reads
            self._reads += 1
        return count
