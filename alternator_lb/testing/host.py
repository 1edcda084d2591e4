"""A node in this process; `process` has the same for one in a process of its own."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from .front import Front
from .listener import Listener
from .loop import LoopThread
from .messages import Response

GRACE_SECONDS = 10.0


class InProcess:
    """A node on a loop that it shares with the other nodes of the cluster.

    The caller sees to it that only one thread at a time changes its state.
    """

    def __init__(self, front: Front) -> None:
        """Know what answers."""
        self._front = front
        self._context: ssl.SSLContext | None = None
        self._loop: LoopThread | None = None

    def equip(self, loop: LoopThread, context: ssl.SSLContext | None) -> None:
        """Say which loop to run on, and the TLS context if there is one, before `begin`."""
        self._loop = loop
        self._context = context

    def begin(self, bound: socket.socket) -> None:
        """Listen."""
        listener = Listener(self._front, self._context)

        def open_() -> None:
            self._front.use(listener)
            listener.open(bound)

        self._running.call(open_)

    def ready(self) -> None:
        """Return at once: `begin` was all."""

    def stop(self) -> None:
        """Close, busy connections after their answer."""
        self._running.run(self._listener.close(GRACE_SECONDS))

    def kill(self) -> None:
        """Cut every connection."""
        self._running.run(self._listener.abort())

    def freeze(self) -> None:
        """Stop reading; the kernel goes on accepting."""
        self._running.call(self._listener.freeze)

    def thaw(self) -> None:
        """Read on."""
        self._running.call(self._listener.thaw)

    def slow(self, seconds: float) -> None:
        """Delay every answer that is not on its way yet."""
        self._front.delay = seconds

    def can(self, response: Response | None) -> None:
        """Set or take away the canned answer."""
        self._front.canned = response

    def counts(self) -> tuple[dict[str, Any], bool]:
        """Count as of now."""
        return self._front.counts(), False

    def reset(self) -> None:
        """Count from zero, between two events of the loop where it runs."""
        if self._loop is None or not self._loop.running:
            self._front.reset()
        else:
            self._loop.call(self._front.reset)

    @property
    def _listener(self) -> Listener:
        assert self._front.listener is not None
        return self._front.listener

    @property
    def _running(self) -> LoopThread:
        assert self._loop is not None
        return self._loop
