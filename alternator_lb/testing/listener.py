"""The listening socket of a node, and every connection that came through it.

The way of a request: `Listener` accepts, `connection.Connection` reads it, `front.Front` checks
and counts it, an `engine` answers it, and `messages.Response.encode` makes the bytes of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
import weakref
from typing import TYPE_CHECKING, cast

from .messages import Request, Response, log

if TYPE_CHECKING:
    from .connection import Connection

_BACKLOG = 1024
_ACCEPTS_IN_A_ROW = 128
_CLOSE_SECONDS = 5.0


class Handler:
    """Who answers the requests of a listener. All of it is called on the loop's thread."""

    async def respond(self, request: Request) -> Response:
        """Answer one request."""
        raise NotImplementedError

    def received(self, connection: Connection, request: Request) -> None:
        """Take note of a request that arrived in full."""

    def finished(self, connection: Connection, request: Request, *, answered: bool) -> None:
        """Take note that a request is over; when answered, just before the answer is written."""


class Listener:
    """The listening socket of one node, and every connection that came through it.

    All methods but the constructor run on the loop's thread.
    """

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        """Keep who answers, and the TLS context if there is one; nothing listens yet."""
        self.handler = handler
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.frozen = False
        self._context = context
        self._socket: socket.socket | None = None
        self._greetings: dict[asyncio.Task[None], socket.socket] = {}
        self._thawed = asyncio.Event()
        self._empty = asyncio.Event()
        self._thawed.set()
        self._empty.set()
        _listeners.add(self)

    @property
    def listening(self) -> bool:
        """Whether connections are taken now (a frozen listener takes them and leaves them be)."""
        return self._socket is not None

    def open(self, bound: socket.socket) -> None:
        """Listen on a bound socket, which belongs to the listener from now on."""
        bound.listen(_BACKLOG)
        bound.setblocking(False)
        self._socket = bound
        if not self.frozen:
            asyncio.get_running_loop().add_reader(bound, self._accept)

    async def close(self, grace: float) -> None:
        """Close the listener, then the connections: idle ones now, busy ones after their answer.

        Args:
            grace: seconds that answers on their way may take; what is left then is cut.
        """
        self._close_socket()
        await self._leave_greetings()
        if not self.frozen:
            for connection in list(self.connections):
                connection.finish()
            if grace:
                await self._until_empty(grace)
        await self.abort()

    async def abort(self) -> None:
        """Close the listener and cut every connection, whatever it is doing."""
        self._close_socket()
        await self._leave_greetings()
        for connection in list(self.connections):
            connection.abort()
        await self._until_empty(_CLOSE_SECONDS)
        self.thaw()

    def freeze(self) -> None:
        """Go on accepting (in the kernel), read nothing and answer nothing."""
        if self.frozen:
            return
        self.frozen = True
        self._thawed.clear()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        for connection in self.connections:
            connection.pause()

    def thaw(self) -> None:
        """Take up everything that waited since `freeze`."""
        if not self.frozen:
            return
        self.frozen = False
        self._thawed.set()
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)
        for connection in list(self.connections):
            connection.resume()

    async def until_thawed(self) -> None:
        """Wait as long as the listener is frozen."""
        await self._thawed.wait()

    def joined(self, connection: Connection) -> None:
        """Take note of a connection that is open."""
        self.connections.add(connection)
        self._empty.clear()

    def left(self, connection: Connection) -> None:
        """Take note of a connection that is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def close_after_fork(self) -> None:
        """Close a child's copies of the sockets, or the parent's peers would never see an end."""
        for each in (*self._greetings.values(), *(each.socket for each in self.connections)):
            each.close()
        if self._socket is not None:
            self._socket.close()

    async def _until_empty(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except asyncio.TimeoutError:
            log.debug("%d connections still open", len(self.connections))

    async def _leave_greetings(self) -> None:
        # asyncio (3.10) loses a socket whose handshake is cancelled: let it run into the end.
        for greeted in self._greetings.values():
            with contextlib.suppress(OSError):
                greeted.shutdown(socket.SHUT_RDWR)
        if self._greetings:
            await asyncio.wait(self._greetings, timeout=_CLOSE_SECONDS)

    def _close_socket(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_IN_A_ROW):
            if self._socket is None:
                return
            try:
                accepted, _peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._rest(error)
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            task = asyncio.get_running_loop().create_task(self._greet(accepted))
            self._greetings[task] = accepted
            task.add_done_callback(functools.partial(self._greeted, accepted))

    def _rest(self, error: OSError) -> None:
        # The socket stays readable as long as descriptors miss: asking on would spin.
        log.warning("no connection can be accepted for the moment: %s", error)
        loop, listening = asyncio.get_running_loop(), self._socket
        loop.remove_reader(cast(socket.socket, listening))

        def again() -> None:
            if self._socket is listening and listening is not None and not self.frozen:
                loop.add_reader(listening, self._accept)

        loop.call_later(0.1, again)

    async def _greet(self, accepted: socket.socket) -> None:
        from .connection import Connection  # and with it h11, of the extra

        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(self, accepted), accepted, ssl=self._context
        )

    def _greeted(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._greetings.pop(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            # A task that was cancelled before its first step has closed nothing itself.
            log.debug("a connection did not come about: %r", error)
            accepted.close()


_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for listener in list(_listeners):
        listener.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
