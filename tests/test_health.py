"""The state machine of one node, step by step, and of many nodes under random events."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alternator_lb import AlternatorNodes, DiscoveryError
from alternator_lb.addresses import NodeAddress
from alternator_lb.discovery import Answer
from alternator_lb.events import NodeDown, NodeEvent
from alternator_lb.health import DOWN, MAX_BACKOFF, NEW, UP, Health
from alternator_lb.membership import Node
from alternator_lb.rotation import Rotation


def up(now: float = 0.0) -> Health:
    health = Health(now, 1.0, lambda: 1.0)
    assert health.works(now, "probed")
    return health


def test_a_new_node_is_probed_at_once() -> None:
    health = Health(5.0, 1.0, lambda: 1.0)
    assert (health.state, health.next_probe) == (NEW, 5.0)
    health.probe_failed(5.0, "refused")
    assert (health.state, health.reason, health.next_probe) == (DOWN, "refused", 6.0)


def test_a_conviction_counts_once() -> None:
    health = up()
    assert health.convict(1.0, "refused")
    assert not health.convict(1.0, "refused")
    assert (health.state, health.since, health.reason) == (DOWN, 1.0, "refused")


def test_probes_back_off_up_to_thirty_seconds() -> None:
    health = up()
    health.convict(0.0, "refused")
    waits = []
    for _ in range(8):
        now = health.next_probe
        health.probe_failed(now, "refused")
        waits.append(health.next_probe - now)
    assert waits == [2, 4, 8, 16, MAX_BACKOFF, MAX_BACKOFF, MAX_BACKOFF, MAX_BACKOFF]
    for _ in range(10_000):
        health.probe_failed(0.0, "refused")
    assert health.next_probe == MAX_BACKOFF


def test_a_node_that_flaps_is_kept_out_longer_each_time() -> None:
    health = up()
    waits = []
    now = 0.0
    for _ in range(6):
        health.convict(now, "refused")
        waits.append(round(health.next_probe - now, 6))
        now = health.next_probe
        health.works(now, "probed")
        now += 0.4
    assert waits == [1, 2, 4, 8, 16, MAX_BACKOFF]
    health.convict(now + 3600, "refused")  # it had been well for long
    assert health.next_probe - (now + 3600) == 1


def test_jitter_moves_the_probe() -> None:
    health = Health(0.0, 1.0, lambda: 0.9)
    health.works(0.0, "probed")
    health.convict(10.0, "refused")
    assert health.next_probe == 10.9


def test_bring_forward_never_puts_off() -> None:
    health = up()
    health.convict(10.0, "refused")
    health.bring_forward(100.0)
    assert health.next_probe == 11.0
    health.bring_forward(10.5)
    assert health.next_probe == 10.5


def test_broken_answers_in_a_row_convict_while_others_work() -> None:
    health = up()
    assert not health.broke(1.0, "reset", others_work=True)
    assert not health.broke(1.0, "reset", others_work=True)
    assert health.broke(1.0, "reset", others_work=True)
    assert "3 answers in a row" in health.reason
    alone = up()
    assert not any(alone.broke(1.0, "reset", others_work=False) for _ in range(10))


def test_a_return_forgets_the_broken_answers() -> None:
    health = up()
    for _ in range(3):
        health.broke(1.0, "reset", others_work=True)
    assert health.works(2.0, "probed")
    assert not health.broke(3.0, "reset", others_work=True)


def test_the_reason_is_that_of_the_last_failure() -> None:
    health = up()
    health.convict(1.0, "refused")
    health.probe_failed(2.0, "timed out")
    assert (health.reason, health.since) == ("timed out", 1.0)


def test_a_late_probe_does_not_convict_who_came_back() -> None:
    health = up()
    health.probe_failed(1.0, "refused")
    assert health.state == UP


class Discovery:
    """Takes the place of the one that opens sockets: which nodes answer is decided here."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.listed: list[str] = []

    def ask(self, address: NodeAddress) -> Answer:
        if address.host not in self.alive:
            raise DiscoveryError(f"{address} refused")
        found = tuple(NodeAddress("http", host, 8000) for host in self.listed)
        if not found:
            raise DiscoveryError("an empty list")
        return Answer(address, found, ())

    def probe(self, address: NodeAddress) -> int:
        if address.host not in self.alive:
            raise DiscoveryError(f"{address} refused")
        return 200

    def forget_all_but(self, addresses: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Pool:
    """Takes the place of a node's urllib3 pool."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open_ones: set[Any] = set()
        self.closed = False

    def busy(self) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed = True


HOSTS = [f"127.0.0.{number}" for number in range(1, 7)]
SEEDS = HOSTS[:2]
some_host = st.sampled_from(HOSTS)


class Cluster(RuleBasedStateMachine):
    """Nodes die, live, are listed, polled and called in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[NodeEvent] = []
        self.nodes = AlternatorNodes("http", 8000, *SEEDS, listener=self.events.append)
        self.discovery = self.nodes._polling.discovery = Discovery()  # type: ignore[assignment]
        self.rotation = Rotation(self.nodes, Pool)

    def node(self, host: str) -> Node | None:
        return self.nodes._members.members.get(NodeAddress("http", host, 8000))

    @rule(host=some_host)
    def comes_alive(self, host: str) -> None:
        self.discovery.alive.add(host)

    @rule(host=some_host)
    def dies(self, host: str) -> None:
        self.discovery.alive.discard(host)

    @rule(hosts=st.lists(some_host, unique=True))
    def is_listed(self, hosts: list[str]) -> None:
        self.discovery.listed = hosts

    @rule()
    def refreshes(self) -> None:
        try:
            self.nodes.refresh()
        except DiscoveryError:
            return
        assert {node.address.host for node in self.nodes._members.members.values()} == set(
            self.discovery.listed
        )

    @rule()
    def polls(self) -> None:
        self.nodes._polling.next_fetch = 0.0
        self.nodes._polling.poll()

    @rule(host=some_host, threads=st.integers(1, 4))
    def calls_cannot_connect(self, host: str, threads: int) -> None:
        node = self.node(host)
        if node is None:
            return
        was_out = node.health.state == DOWN
        before = len(self.events)
        for _ in range(threads):  # they had all picked it before the first came back
            self.nodes.failed_to_connect(node, ConnectionRefusedError(111, "refused"), "refused")
        convictions = [e for e in self.events[before:] if isinstance(e, NodeDown)]
        assert len(convictions) == (0 if was_out else 1)
        assert node.health.state == DOWN

    @precondition(lambda self: self.nodes._members.live)
    @rule()
    def a_call_goes_where_it_can(self) -> None:
        pools = self.rotation.pools
        pool = pools[self.rotation.turn() % len(pools)]
        if pool.node.address.host in self.discovery.alive:
            self.nodes.connected(pool.node)
        else:
            self.nodes.failed_to_connect(pool.node, TimeoutError("timed out"), "timed out")

    @rule(host=some_host)
    def answers_break_off(self, host: str) -> None:
        node = self.node(host)
        if node is not None:
            self.nodes.broke(node, "reset")

    @invariant()
    def never_empty_while_something_is_known(self) -> None:
        assert self.nodes._members.live
        assert self.rotation.pools

    @invariant()
    def the_pools_are_the_live_nodes_pools(self) -> None:
        assert [pool.node for pool in self.rotation.pools] == list(self.nodes._members.live)
        assert not any(pool.closed for pool in self.rotation.pools)

    @invariant()
    def no_call_to_a_node_that_is_out_or_gone(self) -> None:
        known = self.nodes._members.known()
        if any(node.health.state == UP for node in known):
            assert all(node.health.state == UP for node in self.nodes._members.live)
        else:
            assert set(self.nodes._members.live) == set(known)
        assert all(node in known for node in self.nodes._members.live)

    def teardown(self) -> None:
        self.nodes.stop()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
