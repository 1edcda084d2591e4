"""One virtual pool per fake host: pick the next node, connect, send, fail over."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from http.client import HTTPException
from typing import Any

from urllib3._collections import HTTPHeaderDict
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import (
    ClosedPoolError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import HTTPResponse
from urllib3.util.retry import Retry
from urllib3.util.ssl_match_hostname import CertificateError

from .addresses import host_header
from .connection import Replay, reason_of
from .errors import AlternatorError, DiscoveryError
from .membership import Node
from .rotation import Rotation
from .tls import NOT_VERIFIED, WAY_OUT
from .wire import Head, request_bytes

__all__ = ["Call", "LeanResponse", "NoNodeReachableError", "VirtualPool", "node_of"]

log = logging.getLogger("urllib3.connectionpool")  # where people look for the lines of requests

# What connect() can raise: nothing was sent when it does.
_CONNECT_ERRORS = (OSError, HTTPError, CertificateError)
# What botocore gives to urlopen; a per-request timeout is for urllib3's own code.
_LEAN_KEYWORDS = frozenset(
    {"chunked", "decode_content", "enforce_content_length", "preload_content"}
)
_LONGEST = 2_000_000.0  # seconds; poll() counts milliseconds in an int
_TLS_ERRORS = (ssl.SSLError, SSLError, CertificateError)


class NoNodeReachableError(AlternatorError, NewConnectionError):
    """No node could be connected to; nothing was sent. The text names each node and its failure.

    botocore turns it into ``EndpointConnectionError``, requests into ``ConnectionError``.
    """


class Call:
    """What one call brings along to where its connection is chosen, in place of pool_timeout."""

    __slots__ = ("conn", "connect_timeout", "error", "pool_timeout")

    def __init__(self, connect_timeout: Any, pool_timeout: float | None = None) -> None:
        self.connect_timeout = connect_timeout
        self.pool_timeout = pool_timeout
        # With what urllib3's own code goes on where the lean path has begun:
        self.conn: Any = None
        self.error: Exception | None = None


class VirtualPool(HTTPConnectionPool):
    """Stands for one fake host: every request takes the next turn and goes to that node.

    Retries, redirects and the release of connections are urllib3's own: only the source of
    connections differs. Since a retry asks for a connection anew, it goes to another node.

    Args:
        rotation: the nodes' pools.
        scheme: the scheme of the fake host.
        host: the fake host.
        port: the fake host's port.
        pool_settings: ``timeout``, ``retries``, ``headers`` and ``block``, as for any urllib3 pool.
    """

    def __init__(
        self, rotation: Rotation, scheme: str, host: str, port: int | None, **pool_settings: Any
    ) -> None:
        self.scheme = scheme
        super().__init__(host, port, maxsize=0, **pool_settings)
        self._rotation = rotation
        self._host_header = host_header(scheme, host, port)
        self._host_bytes = self._host_header.encode("latin-1")
        # A total, which spans connecting and reading, is for urllib3's own code.
        self._lean = rotation.nodes.settings.lean and self.timeout.total is None
        if self._lean:
            self._timeouts = (
                _seconds(self.timeout.connect_timeout),
                _seconds(self.timeout.read_timeout),
            )
        self._blocked_on = threading.local()

    @property
    def proxy_headers(self) -> dict[str, str]:
        """Nothing, always: there is no proxy, and the Host is the one that was signed."""
        return {}

    @proxy_headers.setter
    def proxy_headers(self, value: object) -> None:
        pass

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        retries: Any = None,
        redirect: bool = True,
        assert_same_host: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Send one request to the next node, as ``HTTPConnectionPool.urlopen`` would to its host.

        Raises:
            NoNodeReachableError: no node could be connected to, in place of NewConnectionError
                and ConnectTimeoutError.
        """
        if (
            self._lean
            and type(body) is bytes
            and isinstance(retries, Retry)
            and retries.total is False
            and kwargs.keys() <= _LEAN_KEYWORDS
            and kwargs.get("preload_content", True) is False
            and kwargs.get("decode_content", True) is False
            and not kwargs.get("chunked")
        ):
            answer = self.lean(method, url, body, headers)
            if not isinstance(answer, Call):
                return LeanResponse(*answer, method, url)
            kwargs["pool_timeout"] = answer
        pool_timeout = kwargs.get("pool_timeout")
        if not isinstance(pool_timeout, Call):  # it is one already when urllib3 retries
            timeout = self._get_timeout(kwargs.get("timeout", self.timeout))
            kwargs["pool_timeout"] = Call(timeout.connect_timeout, pool_timeout)
        return super().urlopen(
            method, url, body, headers, retries, redirect, assert_same_host, **kwargs
        )

    def lean(
        self, method: str, url: str, body: bytes, headers: Any
    ) -> tuple[Head, bytes, Node] | Call:
        """Send a request and read its answer without urllib3's and http.client's machinery.

        Returns:
            ``(head, content, node)``; or, where request or answer is not plain or no node could be
            reached, what ``urlopen`` goes on with when it gets it as ``pool_timeout``.
        """
        connect_timeout = self._timeouts[0]
        request = request_bytes(method, url, self._host_bytes, headers, body)
        if request is None:
            return Call(connect_timeout)
        conn = None
        try:
            pool, conn = self._pick()
            if conn is None:
                conn = self._open(Call(connect_timeout), pool)
            pool = conn.node_pool
            if pool.scheme == "https" and not conn.is_verified:
                self._validate_conn(conn)  # it warns, as it does before each request
            answer = conn.exchange(request, self._timeouts)
        except BaseException as error:
            if conn is not None:
                conn.close()
                self._put_conn(None)
            if not isinstance(error, Exception):
                raise
            call = Call(connect_timeout)
            call.error = error  # urllib3's own code is to raise it, and botocore's to name it
            return call
        if answer is None:
            call = Call(connect_timeout)
            call.conn = conn
            return call
        head, content = answer
        if not conn.has_session:
            conn.remember_session()
        conn.busy_since = 0.0
        conn.node_pool = None
        pool.keep(conn)
        node = pool.node
        if node.health.broken:
            node.health.broken = 0
        if head.status >= 500:
            node.server_errors.tick()
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                '%s://%s:%s "%s %s %s" %s %s',
                *(self.scheme, self.host, self.port, method, url, "HTTP/1.1", head.status),
                head.length,
            )
        return head, content, node

    def _make_request(self, conn: Any, *args: Any, **kwargs: Any) -> Any:
        node = conn.node_pool.node
        replay = conn.sock
        try:
            response = super()._make_request(conn, *args, **kwargs)
        except ReadTimeoutError:
            raise  # it says nothing about the node: the watch finds out
        except (HTTPException, HTTPError, OSError) as error:
            self._rotation.nodes.broke(node, reason_of(error))
            raise
        if isinstance(replay, Replay) and conn.sock is replay:
            conn.sock = replay.sock
        # http.client's answer tells, when the connection is given back, whether it came whole.
        conn.answer = getattr(response, "_original_response", response)
        conn.answer.alternator_node = node
        if response.status >= 500:
            node.server_errors.tick()
        return response

    def close(self) -> None:
        """Do nothing: the nodes' pools belong to the pool manager, see its ``clear()``."""

    # urllib3's own seams, named alike from 1.26 to 2.x.

    def _get_conn(self, timeout: Any = None) -> Any:
        call = timeout if isinstance(timeout, Call) else Call(self.timeout.connect_timeout)
        if call.error is not None:
            error, call.error = call.error, None
            raise error
        if call.conn is not None:
            conn, call.conn = call.conn, None
            return conn
        pool, conn = self._pick()
        if conn is None:
            return self._open(call, pool)
        conn.sock.settimeout(_seconds(call.connect_timeout))  # the lean path left none
        return conn

    def _pick(self) -> tuple[Any, Any]:
        """Take the next turn: a node's pool, and its idle connection if there is one."""
        rotation = self._rotation
        if rotation.wake is not None:
            rotation.wake()
        pools = rotation.pools
        if not pools:
            return self._next_pool({}), None
        pool = pools[rotation.turn() % len(pools)]
        conn = pool.idle_connection()
        if conn is not None:
            pool.node.calls.tick()
            conn.busy_since = time.monotonic()
            conn.node_pool = pool
            conn.host_header = self._host_header
        return pool, conn

    def _open(self, call: Call, pool: Any) -> Any:
        """Connect to a node, or else to the next one, until the call's time for that is over."""
        rotation = self._rotation
        self._blocked_on.__dict__.clear()
        failures: dict[Node, str] = {}
        errors: list[BaseException] = []
        now = time.monotonic()
        deadline = now + rotation.nodes.settings.failover_timeout
        while True:
            if pool is None or now >= deadline:
                raise self._none_reachable(failures, errors, in_time=pool is None)
            try:
                conn = pool._get_conn(timeout=call.pool_timeout)
            except ClosedPoolError:  # the node left between the pick and this line
                pool = self._next_pool(failures)
                continue
            node = pool.node
            if conn.sock is None:
                try:
                    self._connect(conn, call.connect_timeout, deadline - now)
                except BaseException as error:
                    conn.close()
                    pool._put_conn(None)
                    if not isinstance(error, _CONNECT_ERRORS):
                        raise
                    failures[node] = reason = reason_of(error)
                    errors.append(error)
                    rotation.nodes.failed_to_connect(node, error, reason)
                    now = time.monotonic()
                    pool = self._next_pool(failures)
                    continue
                node.connections.tick()
                rotation.nodes.connected(node)
                now = time.monotonic()
            node.calls.tick()
            conn.busy_since = now
            conn.node_pool = pool
            conn.host_header = self._host_header
            conn.generation = rotation.generation
            if pool.block:
                self._blocked_on.pool = pool
            return conn

    def _put_conn(self, conn: Any) -> None:
        if conn is None:  # urllib3 closed it, and gives its place back where places are counted
            pool = self._blocked_on.__dict__.pop("pool", None)
            if pool is not None:
                pool._put_conn(None)
            return
        if not conn.has_session:
            conn.remember_session()
        conn.busy_since = 0.0
        # An idle connection that refers to its pool would keep it alive: urllib3's finalizer of
        # the pool refers to the idle connections.
        pool, conn.node_pool = conn.node_pool, None
        if conn.generation != self._rotation.generation:  # the parent goes on using its socket
            conn.close()
            return
        answer, conn.answer = conn.answer, None
        if answer is not None and answer.isclosed() and answer.length:
            conn.close()
            self._rotation.nodes.broke(pool.node, "the answer was cut short")
        elif pool.node.health.broken:
            pool.node.health.broken = 0
        pool._put_conn(conn)

    def _validate_conn(self, conn: Any) -> None:
        conn.node_pool._validate_conn(conn)

    def _next_pool(self, failures: dict[Node, str]) -> Any:
        rotation = self._rotation
        pools = rotation.pools
        if not pools:
            try:
                rotation.nodes.known()
            except DiscoveryError as error:
                raise NoNodeReachableError(self, str(error)) from error  # type: ignore[arg-type]
            pools = rotation.pools
        turn = rotation.turn()
        for step in range(len(pools)):
            pool: Any = pools[(turn + step) % len(pools)]
            if pool.node not in failures:
                return pool
        return None

    def _connect(self, conn: Any, connect_timeout: Any, time_left: float) -> None:
        """Connect with the nodes' own, shorter timeout; the call's own governs what follows."""
        limit = min(self._rotation.nodes.settings.connect_timeout, time_left)
        own = connect_timeout if isinstance(connect_timeout, (int, float)) else None
        conn.timeout = limit if own is None else min(limit, own)
        conn.connect()
        conn.sock.settimeout(own)

    def _none_reachable(
        self, failures: dict[Node, str], errors: list[BaseException], in_time: bool
    ) -> HTTPError:
        tried = "; ".join(f"{node.address}: {reason}" for node, reason in failures.items())
        text = f"no node of the cluster could be connected to: {tried}"
        if not in_time:
            limit = self._rotation.nodes.settings.failover_timeout
            text += f"; then the {limit:g} s of failover_timeout were over"
        if errors and all(isinstance(error, _TLS_ERRORS) for error in errors):
            if NOT_VERIFIED in text:
                text += f"; {WAY_OUT}"
            return SSLError(text)
        return NoNodeReachableError(self, text)  # type: ignore[arg-type]


class LeanResponse(HTTPResponse):
    """urllib3's response, for an answer that was read whole."""

    def __init__(self, head: Head, content: bytes, node: Node, method: str, url: str) -> None:
        super().__init__(
            body=io.BytesIO(content),
            headers=HTTPHeaderDict(head.headers),
            status=head.status,
            version=11,
            reason=head.reason,
            preload_content=False,
            decode_content=False,
            request_method=method,
            request_url=url,
        )
        self.version_string = "HTTP/1.1"
        self.alternator_node = node


def _seconds(timeout: Any) -> float | None:
    seconds = timeout if isinstance(timeout, (int, float)) else socket.getdefaulttimeout()
    return None if seconds is None else min(seconds, _LONGEST)


def node_of(response: Any) -> Node | None:
    """Return the node that gave a urllib3 response."""
    if isinstance(response, LeanResponse):
        return response.alternator_node
    return getattr(response._original_response, "alternator_node", None)
