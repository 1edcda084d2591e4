"""AlternatorNodes: who is live. It publishes immutable tuples, which the transport reads."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .addresses import NodeAddress, check_port, check_scheme, parse_seed
from .counters import Tally
from .discovery import Answer, Discovery
from .errors import DiscoveryError, InvalidSettingError
from .refresher import Refresher
from .settings import Settings, check_seconds

if TYPE_CHECKING:
    import boto3

__all__ = ["AlternatorNodes", "Node", "NodeStats"]

log = logging.getLogger(__name__)

# How long the very first call waits for the first list, so that even a short script is spread.
FIRST_ANSWER_SECONDS = 0.25
# After this long without an answer, a poll goes on with the seeds.
ROUND_SECONDS = 5.0


class Node:
    """One node, and what was counted of it. All clients that share the nodes count here."""

    __slots__ = ("address", "calls", "connections", "failures")

    def __init__(self, address: NodeAddress) -> None:
        self.address = address
        self.calls = Tally()
        self.connections = Tally()
        self.failures = Tally()


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What was counted of one node since it was first known.

    Args:
        calls: requests that were given to it.
        connections: connections that were opened to it for calls.
        failures: attempts to connect to it that failed.
    """

    calls: int
    connections: int
    failures: int


class Subscriber(Protocol):
    """What follows the list of live nodes: a rotation of the transport."""

    wake: Any

    def publish(self, live: tuple[Node, ...]) -> list[Any]:
        """Take over a new tuple; return the pools that were retired, for closing."""


class AlternatorNodes:
    """The live nodes of one Alternator cluster.

    Nothing is connected and no thread runs until ``start()``, ``refresh()`` or the first call.
    Then a daemon thread polls ``/localnodes``: every ``fetch_interval`` seconds while calls flow,
    every ``idle_interval`` seconds while none are made.

    Args:
        scheme: ``"http"`` or ``"https"``, the same for every node.
        port: the port, the same for every node.
        initial_nodes: the seeds, at least one: IP addresses, DNS names, ``host:port`` or URLs.
        settings: see `Settings`; each is checked here and now.

    Raises:
        InvalidSettingError: no seed, a seed that contradicts scheme or port, an unknown setting or
            an impossible value.

    All methods may be called from any thread. One object can serve several clients.
    """

    def __init__(self, scheme: str, port: int, *initial_nodes: str, **settings: Any) -> None:
        self.scheme = check_scheme(scheme)
        self.port = check_port(port)
        self.settings = Settings.of(settings)
        if not initial_nodes:
            raise InvalidSettingError(
                "no seed was given; name at least one node of the cluster, as in "
                f"AlternatorNodes({scheme!r}, {port}, '10.0.0.1')"
            )
        self._given = (initial_nodes, settings)
        self._seeds = tuple(
            dict.fromkeys(parse_seed(seed, self.scheme, self.port) for seed in initial_nodes)
        )
        self._discovery = Discovery(self.settings)
        self._subscribers: weakref.WeakSet[Subscriber] = weakref.WeakSet()
        self._listed: tuple[NodeAddress, ...] | None = None
        self._nodes: dict[NodeAddress, Node] = {}
        self._live: tuple[Node, ...] = ()
        self._phase = "new"
        self._refresher: Refresher | None = None
        self._asleep = True
        self._fetch_interval = self.settings.fetch_interval
        self._calls_seen = -1
        self._polls_begun = self._poll_applied = 0
        self._answered: tuple[float, NodeAddress] | None = None
        self._complaint: str | None = None
        self._skipped: set[str] = set()
        self._ask_next = random.randrange(1 << 16)
        self._lock = threading.Lock()
        self._first_answer = threading.Event()
        self._set_members([seed for seed in self._seeds if seed.is_ip])
        _all.add(self)

    # -- what users call ---------------------------------------------------------------------

    @property
    def live(self) -> tuple[NodeAddress, ...]:
        """The addresses that calls go to, in the order of the rotation."""
        return tuple(node.address for node in self._live)

    def start(self, fetch_interval: float | None = None) -> AlternatorNodes:
        """Begin polling at once, without waiting for the first answer. Can be repeated.

        Args:
            fetch_interval: seconds between polls while calls flow; None keeps the setting (1.0).

        Raises:
            InvalidSettingError: ``fetch_interval`` is no positive number.
            RuntimeError: no thread can be started.
        """
        if fetch_interval is not None:
            self._fetch_interval = check_seconds("fetch_interval", fetch_interval)
        with self._lock:
            refresher = self._refresher
            if refresher is None or not refresher.alive:
                self._calls_seen = -1
                self._refresher = Refresher(self, f"alternator-lb {self._seeds[0]}")
                refresher = None
            self._phase = "running"
        if refresher is not None and fetch_interval is not None:
            refresher.wake()
        return self

    def stop(self) -> None:
        """End polling, close its connections. Calls go on with the last list. Can be repeated."""
        with self._lock:
            self._phase = "stopped"
            refresher, self._refresher = self._refresher, None
        if refresher is not None:
            refresher.stop(timeout=self.settings.discovery_timeout + 1.0)
        self._discovery.close()

    def __enter__(self) -> AlternatorNodes:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def refresh(self) -> tuple[NodeAddress, ...]:
        """Ask for the nodes now, in this thread.

        Returns:
            The live nodes.

        Raises:
            DiscoveryError: no node gave a usable list; the last good one stays. The text names
                every node asked and how it failed.
        """
        self._find_nodes(until=lambda: False)
        return self.live

    def stats(self) -> dict[NodeAddress, NodeStats]:
        """Return what was counted, for each node that is known now."""
        return {
            address: NodeStats(node.calls.value, node.connections.value, node.failures.value)
            for address, node in list(self._nodes.items())
        }

    def session(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        *,
        region_name: str = "us-east-1",
        **boto3_session: Any,
    ) -> boto3.Session:
        """Return a ``boto3.Session`` whose DynamoDB and Streams clients and resources are balanced.

        Args:
            fake_domain: stands in for the endpoint: it is signed, and sent as the Host. Any name
                will do; it is never resolved.
            key: the access key id. Without it, requests are not signed.
            secret: the secret key.
            region_name: is signed, and has no other meaning for Alternator.
            boto3_session: more arguments for ``boto3.Session``.

        Raises:
            InvalidSettingError: the fake domain is no host name, or key or secret is missing.
            ImportError: boto3 is not installed.
        """
        from .session import balanced_session  # here, since boto3 is optional and lies above nodes

        return balanced_session(
            self, fake_domain, key, secret, region_name=region_name, **boto3_session
        )

    def client(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        **client_settings: Any,
    ) -> Any:
        """Return a boto3 DynamoDB client that is balanced; the arguments are those of session().

        Args:
            fake_domain: see `session`.
            key: see `session`.
            secret: see `session`.
            client_settings: more arguments for ``boto3.Session.client``, ``config`` for example.
        """
        return self.session(fake_domain, key, secret).client("dynamodb", **client_settings)

    def resource(
        self,
        fake_domain: str,
        key: str | None = None,
        secret: str | None = None,
        **client_settings: Any,
    ) -> Any:
        """Return a balanced boto3 DynamoDB resource; the arguments are those of client()."""
        return self.session(fake_domain, key, secret).resource("dynamodb", **client_settings)

    def __repr__(self) -> str:
        if self._listed is None:
            known = f"no list yet, {len(self._seeds)} seed(s)"
        else:
            known = f"{len(self._live)} live of {len(self._listed)} listed"
        polling = {
            "new": "polling starts with the first call",
            "stopped": "stopped",
            "running": f"polling every {self._fetch_interval:g} s",
        }[self._phase]
        if self._phase == "running" and self._asleep:
            polling = f"idle, polling every {self.settings.idle_interval:g} s"
        answered = self._answered
        last = (
            f", last answer {time.monotonic() - answered[0]:.1f} s ago from {answered[1]}"
            if answered
            else ""
        )
        return f"<AlternatorNodes {self.scheme} port {self.port}: {known}, {polling}{last}>"

    def __reduce__(self) -> tuple[Any, ...]:
        initial_nodes, settings = self._given
        return _rebuild, (self.scheme, self.port, initial_nodes, settings)

    # -- what the transport calls --------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keep a rotation (weakly referred to) up to date from now on."""
        with self._lock:
            self._subscribers.add(subscriber)
            subscriber.publish(self._live)
            subscriber.wake = self._wake if self._asleep else None

    def known(self) -> tuple[Node, ...]:
        """Return the nodes to try; names among the seeds are resolved where there are no others.

        Raises:
            DiscoveryError: there are only names, and none can be resolved.
        """
        if not self._live:
            failures: list[str] = []
            self._set_members(list(self._resolve(failures)))
            if not self._live:
                raise DiscoveryError("; ".join(failures))
        return self._live

    def failed_to_connect(self, node: Node, error: BaseException) -> None:
        """Take note that a connection to a node could not be opened; nothing had been sent."""
        node.failures.tick()
        log.debug("cannot connect to %s: %s", node.address, error)

    # -- polling ---------------------------------------------------------------------------------

    def poll(self) -> float:
        """Do one round for the refresher; return the seconds until the next."""
        calls = self._calls_made()
        quiet = calls == self._calls_seen
        self._calls_seen = calls
        try:
            self._find_nodes(until=lambda: self._phase == "stopped")
        except DiscoveryError as error:
            self._complain(str(error))
        finally:
            self._first_answer.set()
        if quiet:
            self._set_asleep(True)
            if self._calls_made() != calls:  # a call came in between and saw nobody asleep
                self._set_asleep(False)
                quiet = False
        interval = self.settings.idle_interval if quiet else self._fetch_interval
        return max(interval, self._fetch_interval) * random.uniform(0.9, 1.1)

    def _wake(self) -> None:
        """Before the first call ever, and before the first after a quiet time."""
        self._calls_seen = -1
        refresher = self._refresher
        if self._phase == "new":
            try:
                self.start()
            except RuntimeError as error:
                log.warning("nodes are not polled, since no thread can be started: %s", error)
            else:
                if self._listed is None:
                    self._first_answer.wait(FIRST_ANSWER_SECONDS)
        elif refresher is not None:
            refresher.wake()
        self._set_asleep(False)

    def _set_asleep(self, asleep: bool) -> None:
        with self._lock:
            self._asleep = asleep
            for subscriber in self._subscribers:
                subscriber.wake = self._wake if asleep else None

    def _calls_made(self) -> int:
        return sum(node.calls.value for node in list(self._nodes.values()))

    def _find_nodes(self, until: Any) -> None:
        with self._lock:
            self._polls_begun += 1
            number = self._polls_begun
        failures: list[str] = []
        for address in self._to_ask(failures):
            if until():
                return
            try:
                answer = self._discovery.ask(address)
            except DiscoveryError as error:
                failures.append(str(error))
            else:
                self._apply(answer, number)
                return
        raise DiscoveryError(
            f"no node gave the list of nodes: {'; '.join(failures)}. "
            "Check the seeds, the scheme and the port"
        )

    def _to_ask(self, failures: list[str]) -> Iterator[NodeAddress]:
        """The next live node, then the others, then the seeds."""
        start = time.monotonic()
        live = self._live
        self._ask_next += 1
        asked = set()
        for step in range(len(live) if self._listed is not None else 0):
            if time.monotonic() - start > ROUND_SECONDS:
                break
            address = live[(self._ask_next + step) % len(live)].address
            asked.add(address)
            yield address
        for address in self._resolve(failures):
            if address not in asked:
                asked.add(address)
                yield address

    def _resolve(self, failures: list[str]) -> Iterator[NodeAddress]:
        for seed in self._seeds:
            if seed.is_ip:
                yield seed
                continue
            try:
                found = socket.getaddrinfo(seed.host, seed.port, type=socket.SOCK_STREAM)
            except OSError as error:
                failures.append(f"seed {seed.host!r} cannot be resolved: {error}")
                continue
            for *_, sockaddr in found:
                yield NodeAddress(seed.scheme, str(sockaddr[0]), seed.port, name=seed.host)

    def _apply(self, answer: Answer, number: int) -> None:
        for entry in answer.skipped:
            if entry not in self._skipped and len(self._skipped) < 1000:
                self._skipped.add(entry)
                log.warning("%s listed an entry that is skipped: %s", answer.source, entry)
        with self._lock:
            if number < self._poll_applied:  # an answer that was asked for later has overtaken it
                return
            self._poll_applied = number
            self._answered = (time.monotonic(), answer.source)
            changed = self._listed is None or set(answer.nodes) != set(self._listed)
        if self._complaint is not None:
            self._complaint = None
            log.info("%s gave the list of nodes again", answer.source)
        if changed:
            self._listed = answer.nodes
            self._set_members(list(answer.nodes))
            self._discovery.forget_all_but([*answer.nodes, *self._seeds, answer.source])

    def _set_members(self, addresses: list[NodeAddress]) -> None:
        retired: list[Any] = []
        with self._lock:
            before = self._nodes
            self._nodes = {
                address: before.get(address) or Node(address)
                for address in dict.fromkeys(addresses)
            }
            # The sum of calls is another one now: the next poll shall not take it for quiet.
            self._calls_seen = -1
            self._live = tuple(self._nodes.values())
            for subscriber in self._subscribers:
                retired += subscriber.publish(self._live)
        for pool in retired:
            pool.close()
        joined = [str(address) for address in self._nodes if address not in before]
        left = [str(address) for address in before if address not in self._nodes]
        if before and (joined or left):
            log.info("nodes joined: %s; left: %s", joined or "none", left or "none")

    def _complain(self, text: str) -> None:
        if self._complaint is None:
            log.warning("%s. The last good list stays: %s", text, [str(node) for node in self.live])
        else:
            log.debug("%s", text)
        self._complaint = text

    def _after_fork_in_child(self) -> None:
        # Another thread of the parent may have held the lock, and the refresher is not here.
        self._lock = threading.Lock()
        self._first_answer = threading.Event()
        self._refresher = None
        if self._phase == "running":
            self._phase = "new"
        self._discovery.after_fork_in_child()
        self._set_asleep(True)


def _rebuild(
    scheme: str, port: int, initial_nodes: tuple[str, ...], settings: dict[str, Any]
) -> AlternatorNodes:
    return AlternatorNodes(scheme, port, *initial_nodes, **settings)


_all: weakref.WeakSet[AlternatorNodes] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for nodes in list(_all):
        nodes._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
