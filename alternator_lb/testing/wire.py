"""HTTP/1.1 with keep-alive on an asyncio loop: requests, responses, connections, a listener."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import functools
import http
import logging
import os
import socket
import ssl
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

log = logging.getLogger("alternator_lb.testing")

Headers = Sequence[tuple[str, str]]

MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024  # Alternator's own limit
_BACKLOG = 1024
_ACCEPTS_IN_A_ROW = 128
_CLOSE_SECONDS = 5.0


class BadRequest(Exception):
    """What arrived is no request that can be answered otherwise than by a status."""

    def __init__(self, status: int) -> None:
        """Keep the status to answer with."""
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Request:
    """A request as it arrived: header names and values untouched, in their order."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark of the target."""
        return self.target.partition("?")[2]

    def header(self, name: str, default: str = "") -> str:
        """Return the first value of a header; the name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), default)


@dataclass(slots=True)
class Response:
    """What is sent back; Date and Content-Length are added where they miss."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def encode(self, *, close: bool, with_body: bool = True) -> bytes:
        """Return the bytes that go over the wire."""
        names = {name.lower() for name, _ in self.headers}
        try:
            reason = http.HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if "content-length" not in names and "transfer-encoding" not in names:
            lines.append(f"Content-Length: {len(self.body)}")
        if "date" not in names:
            lines.append(f"Date: {email.utils.formatdate(usegmt=True)}")
        if close and "connection" not in names:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + self.body if with_body else head


class Handler(Protocol):
    """Who answers the requests of a listener. All of it is called on the loop's thread."""

    async def respond(self, request: Request) -> Response:
        """Answer one request."""

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
        self._sockets: set[socket.socket] = set()
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

    def left(self, connection: Connection, sock: socket.socket) -> None:
        """Take note of a connection that is closed."""
        self.connections.discard(connection)
        self._sockets.discard(sock)
        if not self.connections:
            self._empty.set()

    def close_after_fork(self) -> None:
        """Close a child's copies of the sockets, or the parent's peers would never see an end."""
        for each in (*self._sockets, *([self._socket] if self._socket else ())):
            each.close()

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
            self._sockets.add(accepted)
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
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(self, accepted), accepted, ssl=self._context
        )

    def _greeted(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._greetings.pop(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            # A task that was cancelled before its first step has closed nothing itself.
            log.debug("a connection did not come about: %r", error)
            self._sockets.discard(accepted)
            accepted.close()


class Connection(asyncio.Protocol):
    """One connection of a client: reads a request, has it answered, reads the next."""

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        """Belong to a listener."""
        self.kind = ""  # for the handler to remember what this connection was used for
        self._listener = listener
        self._socket = sock
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast(asyncio.Transport, transport)
        self._listener.joined(self)
        if self._listener.frozen:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Keep what arrived, and answer if that makes a request."""
        self._buffer += data
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and the answer on its way."""
        self._listener.left(self, self._socket)
        if self._transport is not None:
            self._transport.close()  # Python 3.10 warns of TLS transports that their peer closed
        if self._task is not None:
            self._task.cancel()

    def finish(self) -> None:
        """Close now if idle, else after the answer on its way."""
        self._last = True
        if self._task is None:
            self._close()

    def abort(self) -> None:
        """Close without flushing anything."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._transport is not None and not self._transport.is_closing():
            with _gone_below():
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, beginning with what arrived already."""
        if self._transport is not None and not self._transport.is_closing():
            with _gone_below():
                self._transport.resume_reading()
            self._advance()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_extra_info("sslcontext") is not None:
                self._hang_up(100)

    def _hang_up(self, patience: int) -> None:
        # TLS would wait for the peer's goodbye, which a pooled connection never sends.
        transport = cast(asyncio.Transport, self._transport)
        if self in self._listener.connections:
            unsent = 0
            with _gone_below():
                unsent = transport.get_write_buffer_size()
            if patience and unsent:
                asyncio.get_running_loop().call_later(0.05, self._hang_up, patience - 1)
            else:
                asyncio.get_running_loop().call_soon(transport.abort)

    def _advance(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._listener.frozen:
            return
        if self._task is not None or self._last:
            return
        try:
            request = self._take()
        except BadRequest as error:
            self._last = True
            transport.write(Response(error.status).encode(close=True))
            self._close()
            return
        if request is not None:
            self._listener.handler.received(self, request)
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        handler, transport = self._listener.handler, cast(asyncio.Transport, self._transport)
        answered = False
        try:
            response = await _respond(handler, request)
            await self._listener.until_thawed()
            if not transport.is_closing():
                answered = True
                handler.finished(self, request, answered=True)
                close = self._last = self._last or _closes(request, response)
                transport.write(response.encode(close=close, with_body=request.method != "HEAD"))
        finally:
            self._task = None
            if not answered:
                handler.finished(self, request, answered=False)
                transport.abort()
        if self._last:
            self._close()
        else:
            self._advance()

    def _take(self) -> Request | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD):
                raise BadRequest(431)
            if end < 0:
                return None
            self._head = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head.header("expect").lower() == "100-continue":
                cast(asyncio.Transport, self._transport).write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = take_body(self._head, self._buffer)
        if body is None:
            return None
        request, self._head = self._head, None
        request.body = body
        return request


def _gone_below() -> contextlib.suppress:
    # In Python 3.10 a TLS transport whose socket is closed falls over a None for a moment.
    return contextlib.suppress(AttributeError)


async def _respond(handler: Handler, request: Request) -> Response:
    try:
        return await handler.respond(request)
    except Exception:
        log.exception("no answer to %s %s", request.method, request.target)
        return Response(500)


def parse_head(head: bytes) -> Request:
    """Parse the request line and the headers.

    Raises:
        BadRequest: this is no HTTP/1 request.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400)
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400)
        headers.append((name, value.strip(" \t")))
    return Request(parts[0], parts[1], parts[2], headers)


def take_body(head: Request, buffer: bytearray) -> bytes | None:
    """Take the body of a request off the front of a buffer; None if it is not all there yet.

    Raises:
        BadRequest: the body is too large, or its length is told in a way that makes no sense.
    """
    if "chunked" in head.header("transfer-encoding").lower():
        return _take_chunks(buffer)
    told = head.header("content-length", "0")
    if not told.isdecimal():
        raise BadRequest(400)
    length = int(told)
    if length > MAX_BODY:
        raise BadRequest(413)
    if len(buffer) < length:
        return None
    body = bytes(buffer[:length])
    del buffer[:length]
    return body


def _take_chunks(buffer: bytearray) -> bytes | None:
    chunks: list[bytes] = []
    at = total = 0
    # Every pass either moves forward in a buffer of bounded length or returns.
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        try:
            size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
        except ValueError:
            raise BadRequest(400) from None
        total += size
        if size < 0 or total > MAX_BODY:
            raise BadRequest(413)
        at = end + 2 + size + 2
        if len(buffer) < at:
            return None
        if not size:
            break
        chunks.append(bytes(buffer[end + 2 : at - 2]))
    del buffer[:at]
    return b"".join(chunks)


def _closes(request: Request, response: Response) -> bool:
    said = request.header("connection").lower()
    if request.version == "HTTP/1.0" and said != "keep-alive":
        return True
    told = {name.lower(): value.lower() for name, value in response.headers}
    return said == "close" or told.get("connection") == "close"


def end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out the headers that are about one connection, or about the length of the body."""
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "content-length", "expect"),
}

_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for listener in list(_listeners):
        listener.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio has to say; as a loop's exception handler."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))
