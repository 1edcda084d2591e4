"""Tells on stderr how far a run is: one line that is rewritten, or plain lines in a log."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

_WIDTH = 24


class Progress:
    """Counts the steps of several benchmarks.

    Args:
        parts: how many benchmarks will run.
        show: False says nothing.
    """

    def __init__(self, parts: int = 1, *, show: bool = False) -> None:
        self._parts = parts
        self._part = 0
        self._name = ""
        self._steps = 1
        self._done = 0
        self._show = show
        self._live = show and sys.stderr.isatty()
        self._started = time.monotonic()

    def begin(self, name: str, steps: int) -> None:
        """Begin the next benchmark, which will take that many steps."""
        self._part += 1
        self._name, self._steps, self._done = name, max(1, steps), 0
        self._write("begins")

    def step(self, what: str) -> None:
        """One step is done."""
        self._done = min(self._steps, self._done + 1)
        self._write(what)

    def end(self) -> None:
        """Take the line away."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _write(self, what: str) -> None:
        if not self._show:
            return
        share = (self._part - 1 + self._done / self._steps) / self._parts
        seconds = int(time.monotonic() - self._started)
        clock = f"{seconds // 60}:{seconds % 60:02}"
        text = f"{share:4.0%} {clock}  {self._name}: {what}"
        if self._live:
            bar = "#" * round(share * _WIDTH)
            print(f"\r\x1b[K[{bar:<{_WIDTH}}] {text}"[:110], end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
