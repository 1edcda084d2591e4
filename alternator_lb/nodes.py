"""AlternatorNodes: who is live. It publishes immutable tuples, which the transport reads."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .addresses import NodeAddress, check_port, check_scheme, parse_seed
from .counters import Tally
from .discovery import Answer, Discovery
from .errors import DiscoveryError, InvalidSettingError
from .events import NodeDown, NodeEvent, NodeJoined, NodeLeft, NodeUp
from .health import NEW, UP, Health
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
# So many nodes are probed at once.
PROBES_AT_ONCE = 8
# Failures of this machine, not of the node that it tried to connect to.
_OWN_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


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
        "silent_at",
    )

    def __init__(self, address: NodeAddress, health: Health) -> None:
        self.address = address
        self.health = health
        self.asked_at = self.silent_at = -math.inf
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
        self._nodes: dict[
            NodeAddress, Node
        ] = {}  # listed, or the seeds as long as there is no list
        self._spare: dict[NodeAddress, Node] = {}  # seeds that are not listed: the last resort
        self._live: tuple[Node, ...] = ()
        self._out: tuple[Node, ...] = ()  # known and not live: down, or not yet probed
        self._all_out = True
        self._phase = "new"
        self._threadless = False
        self._refresher: Refresher | None = None
        self._asleep = True
        self._fetch_interval = self.settings.fetch_interval
        self._next_fetch = 0.0
        self._calls_seen = -1
        self._polls_begun = self._poll_applied = 0
        self._answered: tuple[float, NodeAddress] | None = None
        self._complaint: str | None = None
        self._skipped: set[str] = set()
        self._ask_next = 0
        self._lock = threading.Lock()
        self._first_answer = threading.Event()
        self._set_members([], [seed for seed in self._seeds if seed.is_ip])
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
                self._next_fetch = 0.0
                self._refresher = Refresher(self, f"alternator-lb {self._seeds[0]}")
                refresher = None
            self._phase = "running"
            self._threadless = False
        if refresher is not None and fetch_interval is not None:
            self._next_fetch = 0.0
            refresher.wake()
        return self

    def stop(self) -> None:
        """End polling, close its connections. Calls go on with the last list. Can be repeated."""
        with self._lock:
            self._phase = "stopped"
            refresher, self._refresher = self._refresher, None
            self._set_wake()
        if refresher is not None:
            refresher.stop(timeout=self.settings.discovery_timeout + 1.0)
        self._discovery.close()

    def __enter__(self) -> AlternatorNodes:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def refresh(self) -> tuple[NodeAddress, ...]:
        """Ask for the nodes now, and probe those that are new or down; wait for the answers.

        Returns:
            The live nodes.

        Raises:
            DiscoveryError: no node gave a usable list; the last good one stays. The text names
                every node asked and how it failed.
        """
        self._find_nodes(until=lambda: False)
        now = time.monotonic()
        with self._lock:
            for node in self._known():
                node.health.bring_forward(now)
        self._probe_due(now)
        return self.live

    def stats(self) -> dict[NodeAddress, NodeStats]:
        """Return the health of each node that is known now, and what was counted of it."""
        now = time.monotonic()
        with self._lock:
            known = [(node, node.health.state, node.health) for node in self._known()]
            return {
                node.address: NodeStats(
                    calls=node.calls.value,
                    connections=node.connections.value,
                    failures=node.failures.value,
                    server_errors=node.server_errors.value,
                    overloads=node.overloads.value,
                    state=state,
                    since=now - health.since,
                    reason=health.reason,
                    next_probe=None if state == UP else max(0.0, health.next_probe - now),
                )
                for node, state, health in known
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
            subscriber.publish(self._live, None)
            self._set_wake()

    def known(self) -> tuple[Node, ...]:
        """Return the nodes to try; names among the seeds are resolved where there are no others.

        Raises:
            DiscoveryError: there are only names, and none can be resolved.
        """
        if not self._live:
            failures: list[str] = []
            self._set_members([], list(self._resolve(failures)))
            if not self._live:
                raise DiscoveryError("; ".join(failures))
        return self._live

    def failed_to_connect(self, node: Node, error: BaseException, reason: str) -> None:
        """Convict a node that could not be connected to; nothing had been sent."""
        node.failures.tick()
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if isinstance(cause, OSError) and cause.errno in _OWN_FAULTS:
            return
        log.debug("cannot connect to %s: %s", node.address, error)
        self._convict(node, reason)

    def connected(self, node: Node) -> None:
        """Let a node in again that a call could connect to while none was known to work."""
        if node.health.state != UP and (self._all_out or self._unattended()):
            self._works(node, "a call could connect to it")

    def broke(self, node: Node, reason: str) -> None:
        """Take note that an answer of a node broke off."""
        now = time.monotonic()
        with self._lock:
            others_work = any(other.health.broken == 0 for other in self._live if other is not node)
            convicted = node.health.broke(now, reason, others_work)
            reason = node.health.reason
            retired = self._publish(node) if convicted else []
        if convicted:
            self._convicted(node, reason, retired)

    # -- polling ---------------------------------------------------------------------------------

    def poll(self) -> float:
        """Do what is due, for the refresher; return the seconds until it is to be called again."""
        now = time.monotonic()
        in_flight = self._watch(now)
        if now >= self._next_fetch:
            self._fetch(now, in_flight)
        self._probe_due(time.monotonic())
        self._first_answer.set()
        return self._until_next(time.monotonic())

    def _fetch(self, now: float, in_flight: bool) -> None:
        calls = self._calls_made()
        quiet = calls == self._calls_seen and not in_flight
        self._calls_seen = calls
        self._next_fetch = now + self._fetch_interval * _jitter()
        try:
            self._find_nodes(until=lambda: self._phase == "stopped")
        except DiscoveryError as error:
            self._complain(str(error))
        if quiet and self._calls_seen == calls:
            self._set_asleep(True)
            if self._calls_made() != calls:  # a call came in between and saw nobody asleep
                self._set_asleep(False)
            else:
                idle = max(self.settings.idle_interval, self._fetch_interval)
                self._next_fetch = now + idle * _jitter()

    def _until_next(self, now: float) -> float:
        due = self._next_fetch
        with self._lock:
            for node in self._out:
                due = min(due, node.health.next_probe)
        if self.settings.watch and not self._asleep:
            due = min(due, now + self.settings.late_after / 4)
        return max(due - now, 0.001)

    def _watch(self, now: float) -> bool:
        """Find nodes that keep calls waiting and are silent; tell whether calls are in flight."""
        in_flight = False
        suspects: set[Node] = set()
        late_after = self.settings.late_after if self.settings.watch else math.inf
        for subscriber in list(self._subscribers):
            busy, late = subscriber.late_calls(now, late_after)
            in_flight = in_flight or busy
            suspects |= late
        due = [node for node in suspects if now - node.asked_at >= late_after]
        for node in due:
            node.asked_at = now
        _at_once(self._ask_suspect, due)
        return in_flight

    def _ask_suspect(self, node: Node) -> None:
        late_after = self.settings.late_after
        try:
            if node.asked_at - node.silent_at > late_after:  # it has not just failed a poll
                self._discovery.probe(node.address)
                return
        except DiscoveryError as error:
            log.debug("%s keeps calls waiting, and: %s", node.address, error)
        silent = time.monotonic() - node.asked_at + late_after
        self._convict(node, f"frozen: calls and a probe had no answer for {silent:.1f} s")
        for subscriber in list(self._subscribers):
            subscriber.cut(node)

    def _probe_due(self, now: float) -> None:
        with self._lock:
            due = [node for node in self._out if node.health.next_probe <= now]
        _at_once(self._probe, due)

    def _probe(self, node: Node) -> None:
        if self._phase == "stopped" and threading.current_thread().name.startswith("alternator-lb"):
            return
        try:
            status = self._discovery.probe(node.address)
        except DiscoveryError as error:
            self._probe_failed(node, str(error).removeprefix(f"{node.address} "))
        else:
            if status < 500:
                self._works(node, "it answered a probe")
            else:
                self._probe_failed(node, f"it answered a probe with HTTP status {status}")

    def _probe_failed(self, node: Node, reason: str) -> None:
        with self._lock:
            node.health.probe_failed(time.monotonic(), reason)
        log.debug("%s failed a probe: %s", node.address, reason)

    def _convict(self, node: Node, reason: str) -> None:
        with self._lock:
            if not node.health.convict(time.monotonic(), reason):
                return  # another thread ran into it first: a conviction counts once
            retired = self._publish(node)
        self._convicted(node, reason, retired)

    def _convicted(self, node: Node, reason: str, retired: list[Any]) -> None:
        for pool in retired:
            pool.close()
        self._tell(NodeDown(node.address, reason))
        self._next_fetch = 0.0  # a failure asks for news: it may have been replaced
        refresher = self._refresher
        if refresher is not None:
            refresher.wake()

    def _works(self, node: Node, reason: str) -> None:
        now = time.monotonic()
        with self._lock:
            before = node.health.state
            if not node.health.works(now, reason):
                return
            if self._all_out:  # whatever was out with it may be back as well
                for other in self._known():
                    other.health.bring_forward(now)
            retired = self._publish()
        for pool in retired:
            pool.close()
        self._tell(NodeUp(node.address, reason), quietly=before == NEW)

    def _readmit(self) -> None:
        """Where no thread can probe, a node is given another try by a call, after its back-off."""
        now = time.monotonic()
        with self._lock:
            due = [node for node in self._out if node.health.next_probe <= now]
        for node in due:
            self._works(node, "no thread can probe it, so a call tries it")

    def _unattended(self) -> bool:
        """Whether no thread probes, so that calls have to."""
        return self._threadless or self._phase == "stopped"

    def _set_wake(self) -> None:
        """Tell the hot path whether to look in before a call. Under the lock."""
        wanted = self._asleep and not self._unattended()
        if self._unattended():
            wanted = bool(self._out)
        for subscriber in self._subscribers:
            subscriber.wake = self._wake if wanted else None

    def _wake(self) -> None:
        """Before the first call ever, and before the first after a quiet time."""
        if self._unattended():
            self._readmit()
            return
        self._calls_seen = -1
        self._next_fetch = 0.0
        refresher = self._refresher
        if self._phase == "new":
            try:
                self.start()
            except RuntimeError as error:
                self._threadless = True
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
            self._set_wake()

    def _known(self) -> list[Node]:
        return [*self._nodes.values(), *self._spare.values()]

    def _calls_made(self) -> int:
        return sum(node.calls.value for node in self._known())

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
                node = self._nodes.get(address)
                if node is not None:
                    node.silent_at = time.monotonic()
            else:
                self._apply(answer, number)
                return
        if until():
            return
        raise DiscoveryError(
            f"no node gave the list of nodes: {'; '.join(failures)}. "
            "Check the seeds, the scheme and the port"
        )

    def _to_ask(self, failures: list[str]) -> Iterator[NodeAddress]:
        """The next live node, then the others, then the seeds."""
        start = time.monotonic()
        live = self._live
        # The first list comes from the first seed that answers: the user has put them in order.
        self._ask_next = self._ask_next + 1 if self._listed is not None else 0
        asked = set()
        for step in range(len(live)):
            if time.monotonic() - start > ROUND_SECONDS:
                break
            address = live[(self._ask_next + step) % len(live)].address
            asked.add(address)
            yield address
        for address in self._resolve(failures):
            if address not in asked:
                asked.add(address)
                yield address
        for node in self._known():
            if node.address not in asked and time.monotonic() - start <= ROUND_SECONDS:
                yield node.address

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
        if self._listed is None:
            self._ask_next = random.randrange(1 << 16)  # many processes shall not ask in step
        if changed:
            self._set_members(list(answer.nodes), [seed for seed in self._seeds if seed.is_ip])
            self._discovery.forget_all_but([*answer.nodes, *self._seeds, answer.source])
        node = self._nodes.get(answer.source)
        if node is not None and node.health.state != UP:
            self._works(node, "it answered /localnodes")

    def _set_members(self, listed: list[NodeAddress], seeds: list[NodeAddress]) -> None:
        now = time.monotonic()
        with self._lock:
            before = {node.address: node for node in self._known()}
            members = dict.fromkeys(listed or seeds)
            joined = [address for address in members if address not in self._nodes]
            left = [address for address in self._nodes if address not in members]

            def node(address: NodeAddress) -> Node:
                return before.get(address) or Node(
                    address, Health(now, self.settings.fetch_interval, _jitter)
                )

            self._nodes = {address: node(address) for address in members}
            self._spare = {address: node(address) for address in seeds if address not in members}
            for address in joined:
                self._nodes[address].health.bring_forward(now)
            known_before = self._listed is not None
            if listed:
                self._listed = tuple(members)
            # The sum of calls is another one now: the next poll shall not take it for quiet.
            self._calls_seen = -1
            retired = self._publish()
        for pool in retired:
            pool.close()
        if listed:
            for address in joined:
                self._tell(NodeJoined(address, "it is listed"), quietly=not known_before)
            for address in left:
                if known_before:
                    self._tell(NodeLeft(address, "it is listed no more"))

    def _publish(self, convicted: Node | None = None) -> list[Any]:
        """Replace the tuple, under the lock. Return the pools to close after it."""
        up = [node for node in self._nodes.values() if node.health.state == UP]
        if not up:
            up = [node for node in self._spare.values() if node.health.state == UP]
        self._all_out = not up
        live = tuple(up or self._known())  # none is known better: all are tried
        self._out = tuple(node for node in self._known() if node.health.state != UP)
        if live == self._live and convicted is None:
            return []
        self._live = live
        self._set_wake()
        retired: list[Any] = []
        for subscriber in self._subscribers:
            retired += subscriber.publish(live, convicted)
        return retired

    def _tell(self, event: NodeEvent, *, quietly: bool = False) -> None:
        verb = _VERBS[type(event)]
        level = logging.DEBUG if quietly else logging.INFO
        log.log(level, "node %s %s: %s", event.address, verb, event.reason)
        if self.settings.listener is not None:
            try:
                self.settings.listener(event)
            except Exception:
                log.exception("the listener failed on %r", event)

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
        self._threadless = False
        self._discovery.after_fork_in_child()
        self._set_asleep(True)


_VERBS: dict[type[NodeEvent], str] = {
    NodeJoined: "joined",
    NodeLeft: "left",
    NodeDown: "is down",
    NodeUp: "is up",
}


def _jitter() -> float:
    return random.uniform(0.9, 1.1)


def _at_once(work: Callable[[Node], None], nodes: list[Node]) -> None:
    """Do some work for several nodes at once, so that one that is silent does not hold up all."""
    waiting = iter(nodes)

    def do() -> None:
        for node in waiting:  # one step of a list's iterator is atomic: each node is taken once
            work(node)

    threads = []
    for number in range(min(len(nodes), PROBES_AT_ONCE) - 1):
        thread = threading.Thread(target=do, name=f"alternator-lb probe {number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    do()
    for thread in threads:
        thread.join()


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
