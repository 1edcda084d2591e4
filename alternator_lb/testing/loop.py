"""An asyncio loop in a thread of its own, asked from any other thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .messages import log

T = TypeVar("T")

_ANSWER_SECONDS = 60.0


class LoopThread:
    """Runs a loop until closed. Its methods can be called from any thread but its own."""

    def __init__(self, name: str) -> None:
        """Start the thread; it is a daemon, so that a forgotten one does not hold up the exit."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(quiet)
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def mine(self) -> bool:
        """Whether this process started the loop: a forked child has a copy that does not run."""
        return self._pid == os.getpid()

    @property
    def running(self) -> bool:
        """Whether the loop takes work."""
        return self.mine and not self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return what it returns."""
        if not self.mine:
            work.close()
            raise RuntimeError("this LocalCluster runs in the process that started it, not in this")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop's thread and return what it returns."""

        async def work() -> T:
            return function()

        return self.run(work())

    def close(self) -> None:
        """End the thread and everything that still runs on the loop."""
        if not self.running:
            return
        self.run(_cancel_the_rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        asyncio.set_event_loop(None)


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    # Transports close their sockets in callbacks of their own: give these their turn.
    for _ in range(5):
        await asyncio.sleep(0)


def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio has to say; as a loop's exception handler."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))
