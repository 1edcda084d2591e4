"""One node of a LocalCluster: what a test does to it, and what it saw."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .host import InProcess
from .loopback import bind
from .messages import Response
from .process import NodeProcess
from .topology import is_int

Host = InProcess | NodeProcess


@dataclass(frozen=True)
class NodeReport:
    """What a node saw since it was made or `LocalCluster.reset_counts` was called.

    A connection that was open before the reset counts again with its first request after it.
    """

    calls: int = 0
    """DynamoDB calls (POST requests) answered, whatever the answer."""
    received: int = 0
    """DynamoDB calls that arrived in full, answered or not."""
    in_flight: int = 0
    """DynamoDB calls that arrived and are not answered yet."""
    polls: int = 0
    """GET /localnodes answered."""
    connections: int = 0
    """Connections that carried at least one DynamoDB call."""
    poll_connections: int = 0
    """Connections that carried nothing but GET requests."""
    open_connections: int = 0
    """Connections open now, whatever they carry."""
    accepted: int = 0
    """Connections accepted, also those that carried nothing or failed in the TLS handshake."""
    hosts: Mapping[str, int] = field(default_factory=dict)
    """Host header of DynamoDB calls -> how many had it."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Error code -> how many calls were refused with it for their signature."""
    stale: bool = False
    """Whether this is the last known of a node that cannot be asked (``processes=True``)."""


class LocalNode:
    """A node of a `LocalCluster`, which makes it; any thread may use it.

    A method that changes the state of the node returns when the change is made.

    Attributes:
        address: its IP address.
        port: its port, the same for all nodes of a cluster.
        scheme: "http" or "https".
        datacenter: the name of its datacenter.
        rack: the name of its rack.
        listed: whether /localnodes names it. Can be set; stopping does not change it, as a
            cluster takes a while to notice, unless ``stop(listed=False)``.
    """

    def __init__(
        self,
        number: int,
        address: str,
        port: int,
        scheme: str,
        datacenter: str,
        rack: str,
        listed: bool,
        host: Host,
    ) -> None:
        """Know who it is and where it runs; the cluster starts it."""
        self._number = number
        self.address = address
        self.port = port
        self.scheme = scheme
        self.datacenter = datacenter
        self.rack = rack
        self.listed = listed
        self._host = host
        self._lock = threading.RLock()
        self._running = False
        self._frozen = False
        self._startable = False

    def __repr__(self) -> str:
        """Tell who it is and how it does."""
        state = "frozen" if self._frozen else "running" if self._running else "stopped"
        return f"<LocalNode {self.address}:{self.port} {self.datacenter}/{self.rack} {state}>"

    @property
    def url(self) -> str:
        """The URL of this node, such as ``http://127.93.17.1:8000``."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it listens; a frozen node does."""
        return self._running

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self._frozen

    @property
    def report(self) -> NodeReport:
        """What it saw until now; a snapshot that does not change."""
        counts, stale = self._host.counts()
        return NodeReport(**counts, stale=stale)

    def start(self) -> None:
        """Listen again on the same address and port; nothing if it runs.

        Raises:
            RuntimeError: the cluster does not run, or the node was removed from it.
            OSError: somebody else took the port meanwhile.
        """
        with self._lock:
            if self._running:
                return
            if not self._startable:
                raise RuntimeError(
                    f"{self!r} cannot start: its cluster does not run, or not any "
                    "more with this node"
                )
            self._begin()
            self._ready()

    def stop(self, *, listed: bool | None = None) -> None:
        """Stop as a server shuts down; nothing if it does not run.

        The listener closes first, then idle connections; requests in flight are answered, for
        at most 10 s. A frozen node cannot do that: it is killed.

        Args:
            listed: whether /localnodes goes on naming it; None leaves that as it is.
        """
        with self._lock:
            if listed is not None:
                self.listed = listed
            if self._running:
                (self._host.kill if self._frozen else self._host.stop)()
                self._running = self._frozen = False

    def kill(self) -> None:
        """End at once, cutting all connections; with ``processes=True`` by SIGKILL."""
        with self._lock:
            if self._running:
                self._host.kill()
                self._running = self._frozen = False

    def freeze(self) -> None:
        """Hang: connections are taken, nothing is read or answered; SIGSTOP of a process.

        Raises:
            RuntimeError: it does not run.
        """
        with self._lock:
            if not self._running:
                raise RuntimeError(f"{self!r} cannot be frozen: start it first")
            if not self._frozen:
                self._host.freeze()
                self._frozen = True

    def thaw(self) -> None:
        """Take up everything that waits since `freeze`; nothing if it is not frozen."""
        with self._lock:
            if self._frozen:
                self._host.thaw()
                self._frozen = False

    def slow(self, seconds: float) -> None:
        """Delay every answer, the engine's work being done before.

        Args:
            seconds: by how much; 0 undoes it. It lasts over `stop` and `start`.
        """
        if not seconds >= 0:
            raise ValueError(f"slow({seconds!r}): give seconds, 0 or more")
        with self._lock:
            self._host.slow(seconds)

    def answer_localnodes(
        self,
        status: int | None = 200,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer every GET /localnodes with this from now on, for tests of what goes wrong.

        Args:
            status: the HTTP status, or None to go back to the truth.
            body: what to send; str is sent as UTF-8.
            headers: sent as they are, so that a Content-Length may lie; by default
                Content-Type: application/json.

        Raises:
            ValueError: an argument makes no sense; the text names it.
        """
        response = None
        if status is not None:
            if not is_int(status) or not 200 <= status <= 599:
                raise ValueError(f"status={status!r}: give a number from 200 to 599, or None")
            if not isinstance(body, (bytes, str)):
                raise ValueError(f"body={body!r}: give bytes or str, such as json.dumps(body)")
            if headers is not None and not is_text_to_text(headers):
                raise ValueError(f"headers={headers!r}: give names with values, both str")
            given = {"Content-Type": "application/json"} if headers is None else headers
            sent = body.encode() if isinstance(body, str) else body
            response = Response(status, sent, list(given.items()))
        with self._lock:
            self._host.can(response)

    def _begin(self, bound: Any = None) -> None:
        self._host.begin(bind(self.address, self.port) if bound is None else bound)
        self._running = True

    def _ready(self) -> None:
        try:
            self._host.ready()
        except BaseException:
            self._running = False
            raise

    def _allow(self, startable: bool) -> None:
        self._startable = startable

    def _reset(self) -> None:
        self._host.reset()


def is_text_to_text(value: object) -> bool:
    """Whether it maps str to str."""
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )
