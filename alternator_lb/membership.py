"""Who is known and who is live, under one lock; publishes immutable tuples. No I/O, no thread."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from .addresses import NodeAddress
from .counters import Tally
from .events import NodeDown, NodeEvent, NodeJoined, NodeLeft, NodeUp
from .health import NEW, UP, Health
from .settings import Settings

__all__ = ["Membership", "Node", "NodeStats", "Subscriber", "jitter"]

log = logging.getLogger(__name__)

_VERBS: dict[type[NodeEvent], str] = {
    NodeJoined: "joined",
    NodeLeft: "left",
    NodeDown: "is down",
    NodeUp: "is up",
}


def jitter() -> float:
    """Return a factor around 1, so that many clients do not act in step."""
    return random.uniform(0.9, 1.1)


class Node:
    """One node, its health, and what was counted of it, for all clients that share the nodes."""

    __slots__ = (
        "address",
        "asked_at",
        "calls",
        "connections",
        "failures",
        "health",
        "overloads",
        "server_errors",
    )

    def __init__(self, address: NodeAddress, health: Health) -> None:
        self.address = address
        self.health = health
        self.asked_at = -math.inf
        self.calls = Tally()
        self.connections = Tally()
        self.failures = Tally()
        self.server_errors = Tally()
        self.overloads = Tally()


@dataclass(frozen=True, slots=True)
class NodeStats:
    """How one node is, and what was counted since it was first known.

    Args:
        calls: requests that were given to it.
        connections: connections that were opened to it for calls.
        failures: attempts to connect to it that failed.
        server_errors: answers with an HTTP status of 500 or more. These alone convict no node.
        overloads: answers with ``RequestLimitExceeded``. These neither.
        state: ``"up"``, ``"down"``, or ``"new"`` until it has answered the first probe.
        since: seconds for which it has been in this state.
        reason: why it is in this state.
        next_probe: seconds until it is probed; None for a node that is up.
    """

    calls: int
    connections: int
    failures: int
    server_errors: int
    overloads: int
    state: str
    since: float
    reason: str
    next_probe: float | None


class Subscriber(Protocol):
    """What follows the list of live nodes: a rotation of the transport."""

    wake: Any

    def publish(self, live: tuple[Node, ...], convicted: Node | None) -> list[Any]:
        """Take over a new tuple; return the pools that were retired, for closing."""

    def late_calls(self, now: float, late_after: float) -> tuple[bool, set[Node]]:
        """Return whether calls are in flight, and the nodes that keep one waiting for too long."""

    def cut(self, node: Node) -> None:
        """Have the calls that wait on a node fail as if it had closed their connections."""


class Membership:
    """The nodes that are known, and among them those that calls go to.

    Whatever changes holds ``lock`` while it does; pools are closed and the listener is told after
    that. ``live``, ``out``, ``members`` and ``spare`` are only ever replaced: to read, no lock.

    Args:
        settings: the interval of probes, and the listener.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Reentrant, for a signal handler or a finalizer that closes the client in the midst of it.
        self.lock = threading.RLock()
        self.subscribers: weakref.WeakSet[Subscriber] = weakref.WeakSet()
        self.listed: tuple[NodeAddress, ...] | None = None
        # The nodes that are listed, or the seeds as long as there is no list.
        self.members: dict[NodeAddress, Node] = {}
        self.spare: dict[NodeAddress, Node] = {}  # seeds that are not listed: the last resort
        self.live: tuple[Node, ...] = ()
        self.out: tuple[Node, ...] = ()  # known and not live: down, or not yet probed
        self.all_out = True
        # What calls are to do first where nobody polls; whoever sets it must not be kept alive.
        self.wake: Callable[[], None] | None = None
        self.asleep = True
        self.unattended = False  # no thread probes, so that calls have to
        self._number = 0  # of the poll that the list is of
        self._events: deque[tuple[NodeEvent, int]] = deque()
        self._telling = threading.Lock()

    def known(self) -> list[Node]:
        """Return every node, listed or seed."""
        return [*self.members.values(), *self.spare.values()]

    def stats(self) -> dict[NodeAddress, NodeStats]:
        """Return how each node is."""
        now = time.monotonic()
        with self.lock:
            return {
                node.address: NodeStats(
                    calls=node.calls.value,
                    connections=node.connections.value,
                    failures=node.failures.value,
                    server_errors=node.server_errors.value,
                    overloads=node.overloads.value,
                    state=node.health.state,
                    since=now - node.health.since,
                    reason=node.health.reason,
                    next_probe=None
                    if node.health.state == UP
                    else max(0.0, node.health.next_probe - now),
                )
                for node in self.known()
            }

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keep a rotation (weakly referred to) up to date from now on."""
        with self.lock:
            self.subscribers.add(subscriber)
            subscriber.publish(self.live, None)
            self.set_wake()

    def followers(self) -> list[Subscriber]:
        """Return who follows the list."""
        with self.lock:
            return list(self.subscribers)

    def after_fork_in_child(self) -> None:
        """Another thread of the parent may have held a lock."""
        self.lock = threading.RLock()
        self._telling = threading.Lock()

    def set_wake(self) -> None:
        """Tell the hot path whether to look in before a call. Under the lock."""
        wanted = bool(self.out) if self.unattended else self.asleep
        for subscriber in self.subscribers:
            subscriber.wake = self.wake if wanted else None

    def convict(self, node: Node, reason: str) -> bool:
        """Take a node out. Returns True only if it was in: a conviction counts once."""
        with self.lock:
            if not node.health.convict(time.monotonic(), reason):
                return False  # another thread ran into it first
            retired = self._publish(node)
            self._note(NodeDown(node.address, reason))
        self._settle(retired)
        return True

    def broke(self, node: Node, reason: str) -> bool:
        """Count an answer of a node that broke off. Returns True if that convicts it."""
        with self.lock:
            others_work = any(other.health.broken == 0 for other in self.live if other is not node)
            if not node.health.broke(time.monotonic(), reason, others_work):
                return False
            reason = node.health.reason
            retired = self._publish(node)
            self._note(NodeDown(node.address, reason))
        self._settle(retired)
        return True

    def works(self, node: Node, reason: str) -> None:
        """Let a node in, unless it is."""
        now = time.monotonic()
        with self.lock:
            before = node.health.state
            if not node.health.works(now, reason):
                return
            if self.all_out:  # whatever was out with it may be back as well
                for other in self.known():
                    other.health.bring_forward(now)
            retired = self._publish()
            self._note(NodeUp(node.address, reason), quietly=before == NEW)
        self._settle(retired)

    def probe_failed(self, node: Node, reason: str) -> None:
        """Keep a node out."""
        with self.lock:
            node.health.probe_failed(time.monotonic(), reason)
        log.debug("%s failed a probe: %s", node.address, reason)

    def bring_forward(self, now: float) -> None:
        """Have every node that is out probed now."""
        with self.lock:
            for node in self.known():
                node.health.bring_forward(now)

    def replace(
        self, listed: Iterable[NodeAddress], seeds: Iterable[NodeAddress], number: int = 0
    ) -> bool:
        """Take over a list of nodes, or the seeds as long as nothing is known.

        Args:
            listed: the list; empty where there is none.
            seeds: the IP addresses of the seeds.
            number: the poll that asked for the list: a later one is not overtaken by an older.

        Returns:
            Whether that changed anything.
        """
        now = time.monotonic()
        with self.lock:
            if number < self._number or (not listed and self.live):
                return False
            self._number = number
            if self.listed is not None and set(self.listed) == set(listed):
                return False
            before = {node.address: node for node in self.known()}
            known_before = self.listed is not None
            seeds = tuple(seeds)
            listed = tuple(dict.fromkeys(listed))
            addresses = dict.fromkeys(listed or seeds)
            joined = [address for address in addresses if address not in self.members]
            left = [address for address in self.members if address not in addresses]

            def node(address: NodeAddress) -> Node:
                return before.get(address) or Node(
                    address, Health(now, self._settings.fetch_interval, jitter)
                )

            self.members = {address: node(address) for address in addresses}
            self.spare = {address: node(address) for address in seeds if address not in addresses}
            for address in joined:
                self.members[address].health.bring_forward(now)
            if listed:
                self.listed = listed
                for address in joined:
                    self._note(NodeJoined(address, "it is listed"), quietly=not known_before)
                for address in left if known_before else ():
                    self._note(NodeLeft(address, "it is listed no more"))
            retired = self._publish()
        self._settle(retired)
        return True

    def _publish(self, convicted: Node | None = None) -> list[Any]:
        """Replace the tuple, under the lock. Return the pools to close after it."""
        up = [node for node in self.members.values() if node.health.state == UP]
        if not up:
            up = [node for node in self.spare.values() if node.health.state == UP]
        self.all_out = not up
        live = tuple(up or self.known())  # none is known better: all are tried
        self.out = tuple(node for node in self.known() if node.health.state != UP)
        self.set_wake()
        if live == self.live and convicted is None:
            return []
        self.live = live
        retired: list[Any] = []
        for subscriber in self.subscribers:
            retired += subscriber.publish(live, convicted)
        return retired

    def _note(self, event: NodeEvent, *, quietly: bool = False) -> None:
        """Have an event told after those before it. Under the lock."""
        self._events.append((event, logging.DEBUG if quietly else logging.INFO))

    def _settle(self, retired: list[Any]) -> None:
        """Do what must wait until the lock is free; one thread at a time tells the events."""
        for pool in retired:
            pool.close()
        while self._events and self._telling.acquire(blocking=False):
            try:
                while self._events:
                    self._tell(*self._events.popleft())
            finally:
                self._telling.release()

    def _tell(self, event: NodeEvent, level: int) -> None:
        log.log(level, "node %s %s: %s", event.address, _VERBS[type(event)], event.reason)
        if self._settings.listener is not None:
            try:
                self._settings.listener(event)
            except Exception:
                log.exception("the listener failed on %r", event)
