"""One ``GET /localnodes``: ask a node, check the answer, make addresses of it."""

from __future__ import annotations

import functools
import io
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.exceptions import HTTPError

from .addresses import NodeAddress, parse_listed
from .connection import node_pool_class, reason_of
from .errors import DiscoveryError
from .settings import Settings
from .tls import NOT_VERIFIED, WAY_OUT, build_context

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

__all__ = ["Answer", "Discovery"]

log = logging.getLogger(__name__)

# 1 MiB holds about 60,000 addresses; a larger answer is no list of nodes.
MAX_ANSWER_BYTES = 1 << 20

# Connections for polls that are kept open; in a larger cluster, those used last.
MOST_POOLS = 32

_HEADERS = {"Accept": "application/json", "User-Agent": "alternator-lb"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A usable list of nodes, and what had to be skipped in it."""

    source: NodeAddress
    nodes: tuple[NodeAddress, ...]
    skipped: tuple[str, ...]


class Discovery:
    """Asks nodes over connections of its own, one for each node; the 32 used last are kept open.

    Args:
        settings: timeouts, TLS and, where the user brings one, the HTTP client.

    Threads may share it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[NodeAddress, HTTPConnectionPool] = {}
        self._context: Any = None

    def load_certificates(self) -> None:
        """Load what ``verify``, ``ca_certs`` and ``client_cert`` name, once.

        Raises:
            InvalidSettingError: it cannot be loaded; the text names the setting and the file.
        """
        settings = self._settings
        if self._context is None and settings.http is None:
            self._context = build_context(
                settings.verify, ca_certs=settings.ca_certs, client_cert=settings.client_cert
            )

    def ask(self, address: NodeAddress) -> Answer:
        """Ask one node which nodes its datacenter has.

        Args:
            address: the node to ask.

        Raises:
            DiscoveryError: it cannot be reached, or gives no usable list; the text says why.
        """
        status, body = self._get(address, "/localnodes")
        if status != 200:
            raise DiscoveryError(
                f"{address} answered /localnodes with HTTP status {status}; "
                "is this the port of Alternator?"
            )
        if len(body) > MAX_ANSWER_BYTES:
            raise DiscoveryError(
                f"{address} answered /localnodes with more than {MAX_ANSWER_BYTES} bytes"
            )
        try:
            listed = json.loads(body)
        except (ValueError, RecursionError):
            raise DiscoveryError(
                f"{address} answered /localnodes with what is no JSON: {_shown(body)}; "
                "is this the port of Alternator?"
            ) from None
        if not isinstance(listed, list):
            raise DiscoveryError(
                f"{address} answered /localnodes with what is no list: {_shown(body)}"
            )
        if not listed:
            raise DiscoveryError(f"{address} answered /localnodes with an empty list")
        nodes: dict[NodeAddress, None] = {}
        skipped = []
        for entry in listed:
            try:
                nodes[parse_listed(entry, address.scheme, address.port)] = None
            except ValueError as error:
                skipped.append(str(error))
        if not nodes:
            raise DiscoveryError(
                f"{address} answered /localnodes with no usable address: {'; '.join(skipped[:5])}"
            )
        return Answer(address, tuple(nodes), tuple(skipped))

    def probe(self, address: NodeAddress) -> int:
        """Ask one node for a sign of life, on the same path.

        Args:
            address: the node to ask.

        Returns:
            The HTTP status of its answer, whatever it was.

        Raises:
            DiscoveryError: it cannot be reached, or stays silent.
        """
        started = time.monotonic()
        try:
            return self._get(address, "/localnodes")[0]
        except DiscoveryError:
            # The kept connection may have been closed in the instant of use: that is no silence.
            if time.monotonic() - started >= self._settings.discovery_timeout / 2:
                raise
        return self._get(address, "/localnodes")[0]

    def forget_all_but(self, addresses: Iterable[NodeAddress]) -> None:
        """Close the connections to every other node."""
        kept = set(addresses)
        for address in [known for known in list(self._pools) if known not in kept]:
            pool = self._pools.pop(address, None)
            if pool is not None and self._settings.http is None:
                pool.close()

    def close(self) -> None:
        """Close every connection. A later ``ask`` opens new ones."""
        self.forget_all_but(())

    def after_fork_in_child(self) -> None:
        """Drop the connections that the parent goes on using."""
        for pool in self._pools.values():
            if hasattr(pool, "forget_inherited"):
                pool.forget_inherited()
        http = self._settings.http
        if http is not None:
            self._pools = {}
            # The lock inside may have been held in the parent at the moment of the fork.
            http.pools = type(http.pools)(http.pools._maxsize, http.pools.dispose_func)

    def _get(self, address: NodeAddress, path: str) -> tuple[int, bytes]:
        limit = self._settings.discovery_timeout
        timeout = urllib3.Timeout(connect=min(self._settings.connect_timeout, limit), read=limit)
        try:
            pool = self._pool(address)
            response = pool.urlopen(
                "GET",
                f"{address.url}{path}" if pool.proxy is not None else path,
                headers=dict(_HEADERS),
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            raise DiscoveryError(_why(address, error)) from error
        try:
            body = _read(response, time.monotonic() + limit)
            if len(body) <= MAX_ANSWER_BYTES:
                response.release_conn()
            return response.status, body
        except (HTTPError, OSError) as error:
            raise DiscoveryError(_why(address, error)) from error
        finally:
            response.close()  # a connection that was released is not touched by this

    def _pool(self, address: NodeAddress) -> HTTPConnectionPool:
        pool = self._pools.pop(address, None) or self._open_pool(address)
        self._pools[address] = pool  # last in the order of use
        if len(self._pools) > MOST_POOLS:
            self.forget_all_but(list(self._pools)[-MOST_POOLS:])
        return pool

    def _open_pool(self, address: NodeAddress) -> Any:
        settings = self._settings
        if settings.http is not None:
            return settings.http.connection_from_host(address.host, address.port, address.scheme)
        if address.scheme == "http":
            return _bounded_pool_class(urllib3.HTTPConnectionPool)(address.host, address.port)
        self.load_certificates()
        return _bounded_pool_class(urllib3.HTTPSConnectionPool)(
            address.host,
            address.port,
            ssl_context=self._context,
            cert_reqs=self._context.verify_mode,
            server_hostname=settings.server_hostname or address.name,
        )


def _read(response: Any, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= MAX_ANSWER_BYTES:
        part = response.read(65536)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not arrive whole in time")
    return b"".join(parts)


def _why(address: NodeAddress, error: BaseException) -> str:
    text = f"{address} did not answer /localnodes: {reason_of(error)}"
    return f"{text}; {WAY_OUT}" if NOT_VERIFIED in text else text


def _shown(body: bytes) -> str:
    text = body[:60].decode("utf-8", "backslashreplace")
    return repr(text + ("…" if len(body) > 60 else ""))


@functools.cache
def _bounded_pool_class(base: Any) -> Any:
    """Return a node's pool class whose answers must arrive whole within the read timeout."""
    pool = node_pool_class(base)
    connection = type(
        f"Bounded{pool.ConnectionCls.__name__}",
        (pool.ConnectionCls,),
        {"response_class": _BoundedResponse},
    )
    return type(f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection})


class _BoundedResponse(HTTPResponse):
    """Reads against one deadline: a socket's timeout alone never ends a slow drip."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        buffered: Any = self.fp
        self.fp = io.BufferedReader(_DeadlineReader(buffered.detach(), sock))


class _DeadlineReader(io.RawIOBase):
    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = time.monotonic() + (sock.gettimeout() or 60.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not arrive whole in time")
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
