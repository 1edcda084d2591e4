"""One round of polling after the other: fetch the list, probe, watch the calls; sleep and wake."""

from __future__ import annotations

import itertools
import logging
import math
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

from .addresses import NodeAddress
from .discovery import Answer, Discovery
from .errors import DiscoveryError
from .health import UP
from .membership import Membership, Node, jitter
from .refresher import Refresher
from .settings import Settings

__all__ = ["Polling", "resolve"]

log = logging.getLogger(__name__)

# How long the very first call waits for the first list, so that even a short script is spread.
FIRST_ANSWER_SECONDS = 0.25
# After this long without an answer, a poll goes on with the seeds.
ROUND_SECONDS = 5.0
# So many nodes are probed at once.
PROBES_AT_ONCE = 8


class Polling:
    """Keeps the membership true, from a thread of its own or when it is asked to.

    The thread refers to it weakly, and nothing here refers to who owns it.

    Args:
        settings: the intervals, and how to ask.
        seeds: whom to ask where no listed node answers.
        members: what is kept true.
    """

    def __init__(
        self, settings: Settings, seeds: tuple[NodeAddress, ...], members: Membership
    ) -> None:
        self._settings = settings
        self._seeds = seeds
        self._members = members
        self.discovery = Discovery(settings)
        self.phase = "new"  # then "running" or "stopped"
        self.fetch_interval = settings.fetch_interval
        self.next_fetch = 0.0
        self.answered: tuple[float, NodeAddress] | None = None
        self._refresher: Refresher | None = None
        self._first_answer = threading.Event()
        self._calls_seen = -1
        self._polls = itertools.count(1).__next__
        self._ask_next = 0
        self._complaint: str | None = None
        self._skipped: set[str] = set()
        this = weakref.ref(self)

        def wake() -> None:  # what the rotations are given must not keep this alive
            polling = this()
            if polling is not None:
                polling.wake()

        members.wake = wake

    # -- begin and end -----------------------------------------------------------------------

    def start(self, fetch_interval: float | None = None) -> None:
        """Begin polling, or take over another interval. RuntimeError: no thread can be started."""
        if fetch_interval is not None:
            self.fetch_interval = fetch_interval
        with self._members.lock:
            running = self._refresher is not None and self._refresher.alive
            if not running:
                self._calls_seen = -1
                self.next_fetch = 0.0
                self._refresher = Refresher(self, f"alternator-lb {self._seeds[0]}")
            self.phase = "running"
            self._members.unattended = False
            self._members.set_wake()
        if running and fetch_interval is not None:
            self.fetch_soon()

    def stop(self) -> None:
        """End the thread, close what polls were made with."""
        with self._members.lock:
            self.phase = "stopped"
            refresher, self._refresher = self._refresher, None
            self._members.unattended = True
            self._members.set_wake()
        if refresher is not None:
            refresher.stop(timeout=self._settings.discovery_timeout + 1.0)
        self.discovery.close()

    def after_fork_in_child(self) -> None:
        """Forget the thread and the connections, which are the parent's."""
        self._first_answer = threading.Event()
        self._refresher = None
        self._ask_next += random.randrange(1 << 16)
        if self.phase == "running":
            self.phase = "new"
        self._members.unattended = self.phase == "stopped"
        self.discovery.after_fork_in_child()
        self._set_asleep(True)

    def wake(self) -> None:
        """Do what a call does before the first ever, and before the first after a quiet time."""
        if self._members.unattended:
            for node in self._due(time.monotonic()):
                self._members.works(node, "no thread can probe it, so a call tries it")
            return
        self._calls_seen = -1
        if self.phase != "new":
            self.fetch_soon()
        else:
            try:
                self.start()
            except RuntimeError as error:
                self._members.unattended = True
                log.warning("nodes are not polled, since no thread can be started: %s", error)
        if self._members.listed is None and not self._members.unattended:
            self._first_answer.wait(FIRST_ANSWER_SECONDS)
        self._set_asleep(False)

    def fetch_soon(self) -> None:
        """Have the list fetched now: a node that failed may have been replaced."""
        self.next_fetch = 0.0
        refresher = self._refresher
        if refresher is not None:
            refresher.wake()

    def _set_asleep(self, asleep: bool) -> None:
        with self._members.lock:
            self._members.asleep = asleep
            self._members.set_wake()

    # -- one round -----------------------------------------------------------------------------

    def poll(self) -> float:
        """Do what is due, for the refresher; return the seconds until it is to be called again."""
        now = time.monotonic()
        in_flight = self._watch(now)
        if now >= self.next_fetch:
            self._fetch(now, in_flight)
        self._probe_due(time.monotonic(), until=self._stopped)
        self._first_answer.set()
        return self._until_next(time.monotonic())

    def refresh(self) -> None:
        """Fetch the list and probe all that are out, here and now, also when stopped."""
        self._find_nodes(until=lambda: False)
        now = time.monotonic()
        self._members.bring_forward(now)
        self._probe_due(now, until=lambda: False)

    def _stopped(self) -> bool:
        return self.phase == "stopped"

    def _until_next(self, now: float) -> float:
        due = min([self.next_fetch, *(node.health.next_probe for node in self._members.out)])
        if self._settings.watch and not self._members.asleep:
            due = min(due, now + self._settings.late_after / 4)
        return max(due - now, 0.001)

    def _fetch(self, now: float, in_flight: bool) -> None:
        calls = self._calls_made()
        quiet = calls == self._calls_seen and not in_flight
        self._calls_seen = calls
        self.next_fetch = now + self.fetch_interval * jitter()
        try:
            self._find_nodes(until=self._stopped)
        except DiscoveryError as error:
            self._complain(str(error))
        if quiet and self._calls_seen == calls:
            idle = max(self._settings.idle_interval, self.fetch_interval)
            self.next_fetch = now + idle * jitter()  # before a call can bring it forward
            self._set_asleep(True)
            if self._calls_made() != calls:  # a call came in between and saw nobody asleep
                self.next_fetch = now + self.fetch_interval * jitter()
                self._set_asleep(False)

    def _calls_made(self) -> int:
        return sum(node.calls.value for node in self._members.known())

    def _complain(self, text: str) -> None:
        if self._complaint is None:
            live = [str(node.address) for node in self._members.live]
            log.warning("%s. The last good list stays: %s", text, live)
        else:
            log.debug("%s", text)
        self._complaint = text

    def _watch(self, now: float) -> bool:
        """Find nodes that keep calls waiting and are silent; tell whether calls are in flight."""
        in_flight = False
        suspects: set[Node] = set()
        late_after = self._settings.late_after if self._settings.watch else math.inf
        for subscriber in self._members.followers():
            busy, late = subscriber.late_calls(now, late_after)
            in_flight = in_flight or busy
            suspects |= late
        due = [node for node in suspects if now - node.asked_at >= late_after]
        for node in due:
            node.asked_at = now
        _at_once(self._ask_suspect, due)
        return in_flight

    def _ask_suspect(self, node: Node) -> None:
        late_after = self._settings.late_after
        try:
            self.discovery.probe(node.address)
            return
        except DiscoveryError as error:
            log.debug("%s keeps calls waiting, and: %s", node.address, error)
        silent = time.monotonic() - node.asked_at + late_after
        reason = f"frozen: calls and a probe had no answer for {silent:.1f} s"
        if self._members.convict(node, reason):
            self.fetch_soon()
        for subscriber in self._members.followers():
            subscriber.cut(node)

    def _due(self, now: float) -> list[Node]:
        return [node for node in self._members.out if node.health.next_probe <= now]

    def _probe_due(self, now: float, until: Callable[[], bool]) -> None:
        _at_once(lambda node: self._probe(node, until), self._due(now))

    def _probe(self, node: Node, until: Callable[[], bool]) -> None:
        if until():
            return
        try:
            status = self.discovery.probe(node.address)
        except DiscoveryError as error:
            self._members.probe_failed(node, str(error).removeprefix(f"{node.address} "))
        else:
            if status < 500:
                self._members.works(node, "it answered a probe")
            else:
                self._members.probe_failed(node, f"it answered a probe with HTTP status {status}")

    def _find_nodes(self, until: Callable[[], bool]) -> None:
        number = self._polls()
        failures: list[str] = []
        for address in self._to_ask(failures):
            if until():
                return
            try:
                answer = self.discovery.ask(address)
            except DiscoveryError as error:
                failures.append(str(error))
            else:
                self._apply(answer, number)
                return
        if until():
            return
        told = "; ".join(failures)
        end = "" if told.endswith("?") else "."
        raise DiscoveryError(
            f"no node gave the list of nodes: {told}{end} Check the seeds, the scheme and the port"
        )

    def _to_ask(self, failures: list[str]) -> Iterator[NodeAddress]:
        """The next live node, then the others, then the seeds."""
        start = time.monotonic()
        live = self._members.live
        # The first list comes from the first seed that answers: the user has put them in order.
        self._ask_next = self._ask_next + 1 if self._members.listed is not None else 0
        asked = set()
        for step in range(len(live)):
            if time.monotonic() - start > ROUND_SECONDS:
                break
            address = live[(self._ask_next + step) % len(live)].address
            asked.add(address)
            yield address
        for address in resolve(self._seeds, failures):
            if address not in asked:
                asked.add(address)
                yield address
        for node in self._members.known():
            if node.address not in asked and time.monotonic() - start <= ROUND_SECONDS:
                yield node.address

    def _apply(self, answer: Answer, number: int) -> None:
        members = self._members
        for entry in answer.skipped:
            if entry not in self._skipped and len(self._skipped) < 1000:
                self._skipped.add(entry)
                log.warning("%s listed an entry that is skipped: %s", answer.source, entry)
        self.answered = (time.monotonic(), answer.source)
        if self._complaint is not None:
            self._complaint = None
            log.info("%s gave the list of nodes again", answer.source)
        if members.listed is None:
            self._ask_next = random.randrange(1 << 16)  # many processes shall not ask in step
        if members.replace(answer.nodes, [seed for seed in self._seeds if seed.is_ip], number):
            # The sum of calls is another one now: the next poll shall not take it for quiet.
            self._calls_seen = -1
            self.discovery.forget_all_but([*answer.nodes, *self._seeds])
        node = members.members.get(answer.source)
        if node is not None and node.health.state != UP:
            members.works(node, "it answered /localnodes")


def resolve(seeds: Iterable[NodeAddress], failures: list[str]) -> Iterator[NodeAddress]:
    """Yield the IP addresses of seeds; tell in ``failures`` of those that cannot be resolved."""
    for seed in seeds:
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
