"""Tally: counts from many threads without a lock, and can be read without losing a count."""

from __future__ import annotations

import itertools

__all__ = ["Tally"]


class Tally:
    """A count that any thread may raise by calling ``tick()``.

    ``x += 1`` loses counts between threads; one step of an ``itertools.count`` does not. No lock,
    which a child process could inherit held: what a count would give next stands in its text.
    """

    __slots__ = ("_count", "tick")

    def __init__(self) -> None:
        self._count = itertools.count()
        self.tick = self._count.__next__

    @property
    def value(self) -> int:
        """How often ``tick`` was called."""
        return int(repr(self._count)[len("count(") : -1])
