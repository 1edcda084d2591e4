"""The connection to one node, and the urllib3 pool that keeps the connections to one node."""

from __future__ import annotations

import _socket
import functools
import io
import queue
import select
import socket
import ssl
import weakref
from typing import Any

from urllib3 import connectionpool
from urllib3.util.connection import is_connection_dropped
from urllib3.util.ssl_match_hostname import CertificateError

from .tls import NOT_VERIFIED, ResumingContext
from .wire import MAX_BODY, MAX_HEAD, Head, response_head

__all__ = [
    "IdleConnections",
    "NodeConnection",
    "OpenOnes",
    "Replay",
    "close_idle",
    "node_pool_class",
    "reason_of",
]

# urllib3 before 1.26.16 does not close the idle connections of a pool that nobody refers to.
_URLLIB3_CLOSES_IDLE = hasattr(connectionpool, "_close_pool_connections")

_never_touched_again: list[Any] = []


class IdleConnections:
    """The idle connections to one node, last in first out; a urllib3 ``QueueCls``.

    It has no lock that a fork could inherit held or that a finalizer could wait for: one step of a
    list is atomic (and an empty list is a tenth of an empty deque). It does not block, so pools
    with ``block=True`` keep urllib3's own queue.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._idle: list[Any] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the connection that was used last.

        Raises:
            queue.Empty: none is idle.
        """
        try:
            return self._idle.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Keep a connection for the next call.

        Raises:
            queue.Full: ``maxsize`` connections are kept already.
        """
        if item is None:  # urllib3 fills its pools with None: a place for a connection to come
            return
        if 0 < self.maxsize <= len(self._idle):
            raise queue.Full
        self._idle.append(item)

    def qsize(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)


def close_idle(idle: Any) -> None:
    """Close every connection of a pool's queue. Takes no lock if it is an IdleConnections."""
    while True:
        try:
            conn = idle.get(block=False)
        except queue.Empty:
            return
        if conn is not None:
            conn.close()


Timeouts = tuple[float | None, float | None]


class NodeConnection:
    """Mixed into a connection class of urllib3 or botocore.

    It sends the Host that was signed, and tells since when a call has been waiting on it: only
    the thread that has the connection writes ``busy_since``, so that needs no lock.
    """

    host_header: str | None = None
    node_pool: Any = None
    generation: int = 0
    busy_since: float = 0.0
    answer: Any = None
    open_ones: OpenOnes | None = None
    sock: Any
    _here: weakref.ref[NodeConnection]
    has_session: bool = True
    _poll: Any = None
    _polls = False

    def connect(self) -> None:
        """Connect, and be found from here on by who looks after the open connections."""
        super().connect()  # type: ignore[misc]
        sock = self.sock
        if isinstance(sock, ssl.SSLSocket):
            # A ticket serves for as long as the node takes it: reading one costs as much as what a
            # resumption saves, and one client's connections to one node need not be unlinkable.
            self.has_session = sock.session_reused or not isinstance(sock.context, ResumingContext)
        if hasattr(select, "poll"):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            self._poll = poller.poll
            # A socket with a timeout polls before each send and recv, and lets go of the
            # interpreter's lock for it. Not where TLS, gevent or the like have a recv of their own.
            self._polls = type(sock).recv is _socket.socket.recv
        if self.open_ones is not None:
            self._here = weakref.ref(self, self.open_ones.discard)
            self.open_ones.add(self._here)

    def remember_session(self) -> None:
        """After the first answer: keep the TLS session for the next connection to this node."""
        self.has_session = True
        sock = self._real_sock()
        if sock is not None:
            sock.context.remember(sock)

    def _real_sock(self) -> Any:
        return self.sock.sock if isinstance(self.sock, Replay) else self.sock

    def dropped(self) -> bool:
        """Whether an idle connection was closed by the node, or has bytes that nobody awaits."""
        if self.sock is None:
            return True
        return bool(self._poll(0)) if self._poll is not None else is_connection_dropped(self)  # type: ignore[arg-type]

    def exchange(self, request: bytes, timeouts: Timeouts) -> tuple[Head, bytes] | None:
        """Send a request in one piece, and return its answer if that is plain.

        Otherwise None is returned, and ``sock`` is a `Replay`: urllib3's own code may send the
        request into it, which has been sent already, and read the answer from its beginning.

        Args:
            request: the bytes of the whole request.
            timeouts: the seconds that sending may take, which are urllib3's connect timeout, and
                the seconds to wait for each part of the answer; None is without end.
        """
        sock = self.sock
        data = b""
        received = bytearray()
        try:
            self._send(sock, request, timeouts[0])
        except OSError as error:
            self.sock = Replay(sock, b"", send_error=error)
            return None
        try:
            end = -1
            while True:
                part = self._receive(sock, 16384, timeouts[1])
                data = data + part if data else part
                end = data.find(b"\r\n\r\n") + 4
                if end > 3:
                    break
                if not part or len(data) > MAX_HEAD:
                    self.sock = Replay(sock, data, eof=not part)
                    return None
            head = response_head(data, end)
            if head is None or head.length > MAX_BODY:
                self.sock = Replay(sock, data)
                return None
            missing = end + head.length - len(data)
            if missing > 0:
                received = bytearray(data)
                while missing > 0:
                    part = self._receive(sock, missing, timeouts[1])
                    if not part:
                        self.sock = Replay(sock, bytes(received), eof=True)
                        return None
                    received += part
                    missing -= len(part)
                data = bytes(received)
            elif missing < 0:  # more than was announced: it must never be taken for an answer
                body = data[end : end + head.length]
                self.close()
                return head, body
            if not head.keep_alive:
                self.close()
            return head, data[end:]
        except OSError as error:
            self.sock = Replay(sock, bytes(received or data), read_error=error)
            return None

    def _send(self, sock: Any, data: bytes, timeout: float | None) -> None:
        if self._polls:
            if sock.gettimeout() != 0.0:
                sock.settimeout(0.0)
            sent = sock.send(data)
            if sent == len(data):
                return
            data = data[sent:]
        if sock.gettimeout() != timeout:
            sock.settimeout(timeout)
        sock.sendall(data)

    def _receive(self, sock: Any, size: int, timeout: float | None) -> bytes:
        if self._polls:
            if not self._poll(None if timeout is None else 1000 * timeout):
                raise TimeoutError("timed out")
        elif sock.gettimeout() != timeout:
            sock.settimeout(timeout)
        data: bytes = sock.recv(size)
        return data

    def close(self) -> None:
        """Close, and be found no more."""
        if self.open_ones is not None and hasattr(self, "_here"):
            self.open_ones.discard(self._here)
        if not self.has_session:  # the node closes after each answer
            self.remember_session()
        super().close()  # type: ignore[misc]

    def cut(self) -> None:
        """Have a call that waits on this connection in another thread fail as if it was closed."""
        sock = self._real_sock()
        if sock is not None:
            try:
                # Not SSLSocket's own shutdown: it would pull the rug from under the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed already

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        """Begin a request; http.client would name the node itself as the Host."""
        write_host = not skip_host and self.host_header is not None
        super().putrequest(  # type: ignore[misc]
            method,
            url,
            skip_host=skip_host or write_host,
            skip_accept_encoding=skip_accept_encoding,
        )
        if write_host:
            self.putheader("Host", self.host_header)  # type: ignore[attr-defined]


class Replay:
    """Stands in for a connection's socket when urllib3's own code takes over in mid-response.

    What is sent into it was sent already, and is dropped. What is read comes from what was
    received already, and then from the socket. An error that occurred occurs again.

    Args:
        sock: the socket.
        received: what was received of the answer.
        eof: whether the node has closed the connection.
        send_error: what sending ended with.
        read_error: what receiving ended with.
    """

    def __init__(
        self,
        sock: Any,
        received: bytes,
        *,
        eof: bool = False,
        send_error: OSError | None = None,
        read_error: OSError | None = None,
    ) -> None:
        self.sock = sock
        self._received = received
        self._eof = eof
        self._send_error = send_error
        self._read_error = read_error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def sendall(self, data: Any, *flags: Any) -> None:
        """Send nothing; fail as the real attempt did."""
        if self._send_error is not None:
            raise self._send_error

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        """Return a reader for http.client."""
        buffered = self.sock.makefile("rb")
        received, self._received = self._received, b""
        return io.BufferedReader(
            _ReplayReader(buffered.detach(), received, self._eof, self._read_error)
        )


class _ReplayReader(io.RawIOBase):
    def __init__(self, raw: Any, received: bytes, eof: bool, error: OSError | None) -> None:
        self._raw = raw
        self._received = memoryview(received)
        self._eof = eof
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._received:
            count = min(len(buffer), len(self._received))
            buffer[:count] = self._received[:count]
            self._received = self._received[count:]
            return count
        if self._error is not None:
            raise self._error
        if self._eof:
            return 0
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


OpenOnes = set[weakref.ref[NodeConnection]]


class NodePool:
    """Mixed into a pool class of urllib3 or botocore: the connections to one node."""

    QueueCls: Any
    pool: Any
    open_ones: OpenOnes | None = None  # where its connections can be found

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("block"):
            self.QueueCls = queue.LifoQueue
        super().__init__(*args, **kwargs)
        if not _URLLIB3_CLOSES_IDLE:
            weakref.finalize(self, close_idle, self.pool)

    def _new_conn(self) -> Any:
        conn = super()._new_conn()  # type: ignore[misc]
        conn.open_ones = self.open_ones
        return conn

    def idle_connection(self) -> Any:
        """Return the idle connection that was used last and is still open, or None."""
        idle = self.pool
        if type(idle) is not IdleConnections:
            return None
        while True:
            try:
                conn = idle._idle.pop()
            except IndexError:
                return None
            if not conn.dropped():
                return conn
            conn.close()

    def keep(self, conn: Any) -> None:
        """Keep a connection for the next call, as ``_put_conn`` does, where that is plain."""
        idle = self.pool
        if type(idle) is IdleConnections and len(idle._idle) < idle.maxsize:
            idle._idle.append(conn)
            if self.pool is not idle:  # it was closed in the meantime
                close_idle(idle)
        else:
            self._put_conn(conn)  # type: ignore[attr-defined]

    def drop_idle(self) -> None:
        """Close the idle connections; the pool goes on."""
        idle = self.pool
        if isinstance(idle, IdleConnections):
            close_idle(idle)
        elif idle is not None:  # urllib3's own queue counts the places with None
            taken = []
            try:
                while True:
                    taken.append(idle.get(block=False))
            except queue.Empty:
                pass
            for conn in taken:
                if conn is not None:
                    conn.close()
                idle.put(None)

    def forget_inherited(self) -> None:
        """In a child process: drop the connections that the parent goes on using."""
        inherited = self.pool
        if inherited is None:
            return
        self.pool = type(inherited)(inherited.maxsize)
        if isinstance(inherited, IdleConnections):
            close_idle(inherited)
        else:  # its lock may be held for ever by a thread that the child does not have
            _never_touched_again.append(inherited)
            for _ in range(inherited.maxsize):
                self.pool.put(None)


@functools.cache
def node_pool_class(base: Any) -> Any:
    """Return the pool class for one node that is built on a pool class of urllib3 or botocore."""
    connection_base = base.ConnectionCls
    connection = type(f"Node{connection_base.__name__}", (NodeConnection, connection_base), {})
    return type(
        f"Node{base.__name__}",
        (NodePool, base),
        {"ConnectionCls": connection, "QueueCls": IdleConnections},
    )


def reason_of(error: BaseException) -> str:
    """Return the words of the innermost cause: urllib3 wraps it in names of classes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CertificateError):
            return f"{NOT_VERIFIED}: {cause}"
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        if isinstance(cause, TimeoutError):
            return "timed out"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
