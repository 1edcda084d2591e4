"""One virtual pool per fake host: pick the next node, connect, send, fail over."""

from __future__ import annotations

import io
import itertools
import logging
import os
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
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
from .connection import NodeConnection, Replay, reason_of
from .errors import AlternatorError, DiscoveryError
from .membership import Node
from .nodes import AlternatorNodes
from .wire import Head, request_bytes

__all__ = ["LeanResponse", "NoNodeReachableError", "Rotation", "VirtualPool", "node_of"]

log = logging.getLogger("urllib3.connectionpool")  # where people look for the lines of requests

# What connect() can raise: nothing was sent when it does.
_CONNECT_ERRORS = (OSError, HTTPError, CertificateError)
# What botocore gives to urlopen; a per-request timeout is for urllib3's own code.
_LEAN_KEYWORDS = frozenset(
    {"chunked", "decode_content", "enforce_content_length", "preload_content"}
)
_TLS_ERRORS = (ssl.SSLError, SSLError, CertificateError)


class NoNodeReachableError(AlternatorError, NewConnectionError):
    """No node could be connected to; nothing was sent. The text names each node and its failure.

    botocore turns it into ``EndpointConnectionError``, requests into ``ConnectionError``.
    """


class Rotation:
    """The pools of the live nodes, and whose turn it is. The virtual pools of one client share it.

    Args:
        nodes: tells who is live.
        open_pool: makes the urllib3 pool of one node.

    ``pools`` is an immutable tuple that is only ever replaced, so readers need no lock.
    """

    def __init__(self, nodes: AlternatorNodes, open_pool: Callable[[Node], Any]) -> None:
        self.nodes = nodes
        self.pools: tuple[Any, ...] = ()  # of node_pool_class()
        # Many processes that start together must not march in step.
        self.turn = itertools.count(random.randrange(1 << 20)).__next__
        self.wake: Callable[[], None] | None = None
        self._open_pool = open_pool
        self._by_node: dict[Node, Any] = {}
        # Every open connection, also those of nodes that left and have calls in flight.
        self._open_ones: set[NodeConnection] = set()
        nodes.subscribe(self)
        _all.add(self)

    def publish(self, live: tuple[Node, ...], convicted: Node | None) -> list[Any]:
        """Take over a new tuple: who stays keeps pool and connections. Called under nodes' lock.

        Args:
            live: the nodes from here on.
            convicted: a node that failed just now: its connections are not used again.
        """
        before = self._by_node
        self._by_node = {
            node: before.get(node)
            if node in before and node is not convicted
            else self._opened(node)
            for node in live
        }
        self.pools = tuple(self._by_node.values())
        return [pool for node, pool in before.items() if self._by_node.get(node) is not pool]

    def late_calls(self, now: float, late_after: float) -> tuple[bool, set[Node]]:
        """Return whether calls are in flight, and the nodes that keep one waiting for too long.

        Args:
            now: the monotonic time.
            late_after: seconds.
        """
        in_flight = False
        late = set()
        for conn in list(self._open_ones):
            since, pool = conn.busy_since, conn.node_pool
            if since and pool is not None:
                in_flight = True
                if now - since > late_after:
                    late.add(pool.node)
        return in_flight, late

    def cut(self, node: Node) -> None:
        """Have the calls that wait on a node fail as if it had closed their connections."""
        for conn in list(self._open_ones):
            pool = conn.node_pool
            if conn.busy_since and pool is not None and pool.node is node:
                conn.cut()

    def close_idle(self) -> None:
        """Close the idle connections of every node; calls in flight finish."""
        for pool in self.pools:
            pool.drop_idle()

    def _opened(self, node: Node) -> Any:
        pool = self._open_pool(node)
        pool.node = node
        pool.open_ones = self._open_ones
        return pool

    def forget_inherited(self) -> None:
        """In a child process: drop the connections that the parent goes on using."""
        self._open_ones = set()  # those in use are never closed here: the parent has them
        for pool in self.pools:
            pool.open_ones = self._open_ones
            pool.forget_inherited()


class _Call:
    """What one call brings along to where its connection is chosen, in place of pool_timeout."""

    __slots__ = ("conn", "connect_timeout", "error", "pool_timeout")

    def __init__(self, connect_timeout: Any, pool_timeout: float | None = None) -> None:
        self.connect_timeout = connect_timeout
        self.pool_timeout = pool_timeout
        # With what urllib3's own code goes on where the lean path has begun:
        self.conn: Any = None
        self.error: HTTPError | None = None


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
            if type(answer) is tuple:
                head, content, node = answer
                return LeanResponse(head, content, node, method, url)
            kwargs["pool_timeout"] = answer
        pool_timeout = kwargs.get("pool_timeout")
        if not isinstance(pool_timeout, _Call):  # it is one already when urllib3 retries
            timeout = self._get_timeout(kwargs.get("timeout", self.timeout))
            kwargs["pool_timeout"] = _Call(timeout.connect_timeout, pool_timeout)
        return super().urlopen(
            method, url, body, headers, retries, redirect, assert_same_host, **kwargs
        )

    def lean(self, method: str, url: str, body: bytes, headers: Any) -> Any:
        """Send a request and read its answer without urllib3's and http.client's machinery.

        Returns:
            ``(head, content, node)``; or, where request or answer is not plain or no node could be
            reached, what ``urlopen`` goes on with when it gets it as ``pool_timeout``.
        """
        connect_timeout = self._timeouts[0]
        request = request_bytes(method, url, self._host_bytes, headers, body)
        if request is None:
            return _Call(connect_timeout)
        try:
            pool, conn = self._pick()
            if conn is None:
                conn = self._open(_Call(connect_timeout), pool)
        except HTTPError as error:
            call = _Call(connect_timeout)
            call.error = error
            return call
        pool = conn.node_pool
        if pool.scheme == "https" and not conn.is_verified:
            self._validate_conn(conn)  # it warns, as it does before each request
        try:
            answer = conn.exchange(request, self._timeouts)
        except BaseException:
            conn.close()
            self._put_conn(None)
            raise
        if answer is None:
            call = _Call(connect_timeout)
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
        call = timeout if isinstance(timeout, _Call) else _Call(self.timeout.connect_timeout)
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

    def _open(self, call: _Call, pool: Any) -> Any:
        """Connect to a node, or else to the next one, until the call's time for that is over."""
        rotation = self._rotation
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
            conn.generation = _generation
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
        if conn.generation != _generation:  # the parent process goes on using its socket
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
        usual, conn.timeout = conn.timeout, limit if own is None else min(limit, own)
        conn.connect()
        conn.timeout = usual
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
        self.alternator_node = node


def _seconds(timeout: Any) -> float | None:
    return timeout if isinstance(timeout, (int, float)) else socket.getdefaulttimeout()


def node_of(response: Any) -> Node | None:
    """Return the node that gave a urllib3 response."""
    if isinstance(response, LeanResponse):
        return response.alternator_node
    return getattr(response._original_response, "alternator_node", None)


_all: weakref.WeakSet[Rotation] = weakref.WeakSet()
_generation = 0


def _after_fork_in_child() -> None:
    global _generation
    _generation += 1
    for rotation in list(_all):
        rotation.forget_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
