"""The daemon thread that polls: thread → weakref → owner, so that nobody has to stop it."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from typing import Protocol

__all__ = ["Refresher"]

log = logging.getLogger(__name__)

_WAKE = object()
_STOP = object()


class Owner(Protocol):
    """What is polled."""

    def poll(self) -> float:
        """Do one round of work; return the seconds until the next."""


class Refresher:
    """Runs ``owner.poll()`` on a daemon thread until it is stopped or the owner is gone.

    The mailbox is a ``SimpleQueue``: its ``put`` may be called from a weakref callback or a signal
    handler, since it takes no lock that Python code could hold.

    Args:
        owner: is asked for the next poll; only a weak reference is kept.
        name: the thread's name.

    Raises:
        RuntimeError: no thread can be started (interpreter shutdown, an isolated subinterpreter).
    """

    def __init__(self, owner: Owner, name: str) -> None:
        mailbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._mailbox = mailbox
        self._thread = threading.Thread(
            target=_run,
            args=(weakref.ref(owner, lambda _: mailbox.put(_STOP)), mailbox),
            name=name,
            daemon=True,
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; False in a child process that inherited this object."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Have the next poll done now. Does not wait. Any thread may call it."""
        self._mailbox.put(_WAKE)

    def stop(self, timeout: float | None = None) -> None:
        """End the thread, and wait for it for at most ``timeout`` seconds.

        The thread itself may call this: it ends after the poll under way.
        """
        self._mailbox.put(_STOP)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


def _run(ref: weakref.ref[Owner], mailbox: queue.SimpleQueue[object]) -> None:
    delay = 0.0
    while True:
        try:
            message = mailbox.get(timeout=delay) if delay > 0 else None
            while message is not _STOP:  # several wakes are one
                message = mailbox.get_nowait()
        except queue.Empty:
            message = None
        if message is _STOP:
            return
        owner = ref()
        if owner is None:
            return
        try:
            delay = owner.poll()
        except BaseException:  # also a SystemExit of the listener's: the nodes are polled on
            log.exception("polling the nodes failed; it goes on in 10 seconds")
            delay = 10.0
        del owner
