"""Nodes that are killed, frozen, out of reach, restarted or flapping: no call fails."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from alternator_lb import AlternatorNodes, install_alternator_transport
from alternator_lb.events import NodeDown, NodeEvent
from alternator_lb.testing import LocalCluster

from ..conftest import get, make_table, new_client, until
from .traffic import Traffic


@pytest.fixture(params=["threads", "processes"])
def cluster(request: Any) -> Iterator[LocalCluster]:
    """Nodes in this process, and nodes that are processes, to be killed and stopped for real."""
    settings = {"threads": {}, "processes": {"processes": True}, "tls": {"tls": True}}
    with LocalCluster(nodes=3, **settings[request.param]) as cluster:
        make_table(cluster)
        yield cluster


also_with_tls = pytest.mark.parametrize("cluster", ["threads", "processes", "tls"], indirect=True)


@pytest.fixture
def events() -> list[NodeEvent]:
    return []


@pytest.fixture
def client(cluster: LocalCluster, events: list[NodeEvent]) -> Iterator[Any]:
    """A patched client as most people have it: botocore's default retries and timeouts."""
    client = new_client(cluster, config=None, verify=cluster.ca_path)
    install_alternator_transport(client, cluster.seeds, listener=events.append).refresh()
    yield client
    client.close()


def nodes_of(client: Any) -> AlternatorNodes:
    nodes: AlternatorNodes = client._endpoint.http_session.nodes
    return nodes


def states(client: Any) -> dict[str, str]:
    return {address.host: stats.state for address, stats in nodes_of(client).stats().items()}


def shares(client: Any, traffic: Traffic) -> dict[str, int]:
    """What each node got of the calls of a while."""
    before = {a.host: s.calls for a, s in nodes_of(client).stats().items()}
    traffic.goes_on(12)
    return {a.host: s.calls - before[a.host] for a, s in nodes_of(client).stats().items()}


def downs(events: list[NodeEvent]) -> list[str]:
    return [event.address.host for event in events if isinstance(event, NodeDown)]


@also_with_tls
def test_a_node_is_killed(cluster: LocalCluster, client: Any, events: list[NodeEvent]) -> None:
    dead = cluster.nodes[1]
    with Traffic(client) as traffic:
        dead.kill()
        until(lambda: states(client)[dead.address] == "down")
        traffic.goes_on()
        opened = nodes_of(client).stats()
        share = shares(client, traffic)
        assert downs(events) == [dead.address]  # however many threads ran into it
    assert traffic.failed() == [], traffic.told()
    address = next(a for a in opened if a.host == dead.address)
    stats = nodes_of(client).stats()[address]
    assert stats.failures == opened[address].failures  # nothing connects to it but probes
    assert stats.reason
    others = [share[node.address] for node in cluster.nodes if node is not dead]
    assert share[dead.address] == 0
    assert max(others) - min(others) <= 0.02 * sum(others) + 8
    traffic.told()


@also_with_tls
def test_a_node_freezes(cluster: LocalCluster, client: Any, events: list[NodeEvent]) -> None:
    frozen = cluster.nodes[1]
    with Traffic(client) as traffic:
        frozen.freeze()
        until(lambda: states(client)[frozen.address] == "down")
        traffic.goes_on(6)
        assert downs(events) == [frozen.address]
    frozen.thaw()
    assert traffic.failed() == [], traffic.told()
    reason = next(event.reason for event in events if isinstance(event, NodeDown))
    if cluster.scheme == "http" or reason != "timed out":  # a handshake may be the first to tell
        assert "frozen" in reason
    traffic.told()


def test_a_node_that_is_slow_but_answers_the_probe_stays(
    cluster: LocalCluster, client: Any, events: list[NodeEvent]
) -> None:
    slow = cluster.nodes[1]
    with Traffic(client, threads=3) as traffic:
        slow.slow(0.1)
        traffic.goes_on(10)
        slow.slow(0)
    assert traffic.failed() == []
    assert downs(events) == []


def test_a_rolling_restart(cluster: LocalCluster, client: Any, events: list[NodeEvent]) -> None:
    with Traffic(client) as traffic:
        for node in cluster.nodes:
            node.stop()
            until(lambda node=node: states(client)[node.address] == "down")
            traffic.goes_on()
            node.start()
            until(lambda node=node: states(client)[node.address] == "up")
            traffic.goes_on()
    assert traffic.failed() == [], traffic.told()
    assert downs(events) == list(cluster.addresses)
    traffic.told()


@also_with_tls
def test_all_nodes_are_killed_and_return(cluster: LocalCluster) -> None:
    # botocore would retry for half a minute by default, and the error is wanted here.
    config = Config(retries={"max_attempts": 1})
    client = new_client(cluster, config=config, verify=cluster.ca_path)
    install_alternator_transport(client, cluster.seeds).refresh()
    with Traffic(client, threads=4) as traffic:
        for node in cluster.nodes:
            node.kill()
        until(lambda: any(isinstance(e, EndpointConnectionError) for e in traffic.failed()))
        for node in cluster.nodes:
            node.start()
        until(lambda: set(states(client).values()) == {"up"})
        back = time.monotonic()
        traffic.goes_on()
    assert [call.error for call in traffic.since(back) if call.error] == []
    named = [str(e) for e in traffic.failed() if isinstance(e, EndpointConnectionError)]
    assert any(all(address in text for address in cluster.addresses) for text in named), named[:3]
    traffic.told()
    client.close()


def test_the_first_node_that_works_is_live_without_the_refresher(
    cluster: LocalCluster, client: Any
) -> None:
    nodes = nodes_of(client)
    get(client)
    nodes.stop()
    for node in cluster.nodes:
        node.kill()
    with pytest.raises(EndpointConnectionError):
        get(client)
    assert set(states(client).values()) == {"down"}
    cluster.nodes[2].start()
    assert get(client) == "rex"
    assert states(client)[cluster.nodes[2].address] == "up"


def test_a_node_flaps(cluster: LocalCluster, client: Any, events: list[NodeEvent]) -> None:
    flapping = cluster.nodes[1]
    with Traffic(client, threads=4) as traffic:
        for _ in range(3):
            flapping.kill()
            until(lambda: states(client)[flapping.address] == "down")
            flapping.start()
            traffic.goes_on(2)
            until(lambda: states(client)[flapping.address] == "up")
    assert traffic.failed() == [], traffic.told()
    assert downs(events) == [flapping.address] * 3
    traffic.told()


def test_a_node_out_of_reach(events: list[NodeEvent]) -> None:
    """A listener whose backlog is full drops what arrives, as a lost route does."""
    with LocalCluster(nodes=3) as cluster, socket.socket() as listener:
        make_table(cluster)
        client = new_client(cluster, config=None)
        nodes = install_alternator_transport(
            client, cluster.seeds, connect_timeout=0.5, listener=events.append
        )
        nodes.refresh()
        gone = cluster.nodes[1]
        with Traffic(client) as traffic:
            gone.kill()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((gone.address, gone.port))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((gone.address, gone.port))
            until(lambda: states(client)[gone.address] == "down")
            traffic.goes_on(6)
        for filler in fillers:
            filler.close()
        assert traffic.failed() == [], traffic.told()
        assert gone.address in downs(events)
        client.close()
        traffic.told()
