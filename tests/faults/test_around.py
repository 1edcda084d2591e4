"""What goes wrong around the nodes: too few connections, forks, clocks, certificates, deadlines."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, SSLError

from alternator_lb import AlternatorNodes, install_alternator_transport
from alternator_lb.events import NodeDown, NodeEvent, NodeJoined, NodeLeft, NodeUp
from alternator_lb.testing import LocalCluster

from ..conftest import get, make_table, new_client, until
from ..test_lifetimes import forks, in_child, wait_for
from .traffic import Traffic


def test_64_threads_and_few_places_for_connections(cluster: LocalCluster) -> None:
    client = new_client(cluster, config=Config(max_pool_connections=4))
    install_alternator_transport(client, cluster.seeds).refresh()
    with Traffic(client, threads=64) as traffic:
        traffic.goes_on(4)
        assert all(node.report.open_connections <= 64 + 1 for node in cluster.nodes)
    assert traffic.failed() == [], traffic.told()
    kept = [len(pool.pool._idle) for pool in rotation_of(client, cluster).pools]
    assert max(kept) <= 4
    client.close()
    traffic.told()


def rotation_of(client: Any, cluster: LocalCluster) -> Any:
    manager = client._endpoint.http_session._manager
    return manager.connection_from_url(f"{client.meta.endpoint_url}/")._rotation


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_twenty_forks_under_traffic(cluster: LocalCluster) -> None:
    client = new_client(cluster, config=None)
    install_alternator_transport(client, cluster.seeds, fetch_interval=0.05).refresh()

    def child() -> None:
        for turn in range(10):
            name = f"{os.getpid()}-{turn}"
            client.put_item(TableName="animals", Item={"name": {"S": name}})
            assert get(client, name) == name

    with Traffic(client, threads=4) as traffic:
        wait_for([in_child(child) for _ in range(20)])
        traffic.goes_on()
    assert traffic.failed() == [], traffic.told()
    client.close()


def test_the_wall_clock_jumps(cluster: LocalCluster, monkeypatch: Any) -> None:
    """Only monotonic time counts: with the clock set back an hour, everything goes on."""
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.02)
    nodes.refresh()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    polled = sum(node.report.polls for node in cluster.nodes)
    cluster.nodes[1].kill()

    def polls_go_on() -> bool:
        assert get(client) == "rex"
        return sum(node.report.polls for node in cluster.nodes) > polled + 5

    until(polls_go_on)
    cluster.nodes[1].start()

    def is_back() -> bool:
        assert get(client) == "rex"
        return {stats.state for stats in nodes.stats().values()} == {"up"}

    until(is_back)
    client.close()


@pytest.mark.parametrize("fault", ["expired", "wrong-name", "unknown-ca"])
def test_one_node_with_a_bad_certificate(fault: str) -> None:
    with LocalCluster(nodes=3, tls=True, certificates={1: fault}) as cluster:
        make_table(cluster)
        client = new_client(cluster, verify=cluster.ca_path, config=None)
        nodes = install_alternator_transport(client, cluster.seeds)
        nodes.refresh()
        with Traffic(client, threads=3) as traffic:
            traffic.goes_on(6)
        assert traffic.failed() == [], traffic.told()
        stats = {address.host: each for address, each in nodes.stats().items()}
        bad = stats.pop(cluster.nodes[1].address)
        assert bad.state == "down"
        assert "certificate" in bad.reason
        assert bad.calls == 0
        assert {each.state for each in stats.values()} == {"up"}
        client.close()


@pytest.mark.parametrize("fault", ["expired", "wrong-name", "unknown-ca"])
def test_every_node_with_a_bad_certificate(fault: str) -> None:
    with LocalCluster(nodes=2, tls=True, certificates={0: fault, 1: fault}) as cluster:
        client = new_client(cluster, verify=cluster.ca_path)
        install_alternator_transport(client, list(cluster.addresses))
        with pytest.raises(SSLError) as error:
            client.list_tables()
        for address in cluster.addresses:
            assert address in str(error.value)
        client.close()


def test_a_failed_handshake_convicts(cluster: LocalCluster) -> None:
    """Plain HTTP nodes for a client that speaks TLS: the reason is told."""
    nodes = AlternatorNodes("https", cluster.port, *cluster.addresses, discovery_timeout=0.2)
    client = new_client(cluster, endpoint_url="https://dog.scylladb.com:1234")
    install_alternator_transport(client, nodes)
    nodes.stop()
    with pytest.raises((SSLError, EndpointConnectionError)):
        get(client)
    assert {stats.state for stats in nodes.stats().values()} == {"down"}
    client.close()


def test_connecting_has_a_deadline(monkeypatch: Any) -> None:
    """Many nodes out of reach: the call ends after failover_timeout, and names those it tried."""
    addresses = [f"127.0.7.{number}" for number in range(1, 30)]
    listeners = []
    fillers = []
    port = 0
    for address in addresses:
        listener = socket.socket()
        listener.bind((address, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        listeners.append(listener)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((address, port))
            fillers.append(filler)
    nodes = AlternatorNodes(
        "http", port, *addresses, connect_timeout=0.15, failover_timeout=0.5, discovery_timeout=0.1
    )
    nodes.stop()
    client = nodes.client("dog.scylladb.com", "a", "b", config=Config(retries={"max_attempts": 0}))
    with pytest.raises(EndpointConnectionError) as error:
        client.list_tables()
    text = str(error.value)
    assert "the 0.5 s of failover_timeout were over" in text
    assert 2 <= text.count(": timed out") <= 5
    client.close()
    for sock in (*listeners, *fillers):
        sock.close()


def test_without_a_thread_calls_bring_a_node_back(cluster: LocalCluster, monkeypatch: Any) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.1)
    nodes.refresh()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        get(client)
    cluster.nodes[1].kill()
    for _ in range(3):
        assert get(client) == "rex"
    state = next(s for a, s in nodes.stats().items() if a.host == cluster.nodes[1].address)
    assert state.state == "down"
    cluster.nodes[1].start()

    def serves() -> bool:
        assert get(client) == "rex"
        return cluster.nodes[1].report.calls > 0

    cluster.reset_counts()
    until(serves)
    client.close()


def test_a_failure_of_this_machine_convicts_no_node(
    cluster: LocalCluster, monkeypatch: Any
) -> None:
    import errno

    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    nodes.stop()

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("urllib3.util.connection.create_connection", full)
        with pytest.raises(EndpointConnectionError, match="Too many open files"):
            get(client)
    assert {stats.state for stats in nodes.stats().values()} == {"up"}
    assert get(client) == "rex"
    client.close()


def test_a_conviction_asks_for_news(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=3600)
    nodes.refresh()
    get(client)
    until(
        lambda: nodes._polling.answered is not None and nodes._polling.next_fetch > time.monotonic()
    )
    cluster.nodes[1].kill()
    replacement = cluster.add_node()
    cluster.nodes[1].listed = False

    def replaced() -> bool:
        assert get(client) == "rex"
        return replacement.address in {address.host for address in nodes.live}

    until(replaced)
    client.close()


def test_a_listener_hears_of_everything(cluster: LocalCluster, caplog: Any) -> None:
    events: list[NodeEvent] = []

    def listener(event: NodeEvent) -> None:
        events.append(event)
        raise ValueError("a listener that fails")

    client = new_client(cluster)
    nodes = install_alternator_transport(
        client, cluster.seeds, fetch_interval=0.05, listener=listener
    )
    nodes.refresh()
    get(client)
    added = cluster.add_node()

    def heard(kind: type[NodeEvent]) -> bool:
        assert get(client) == "rex"
        return any(type(e) is kind and e.address.host == added.address for e in list(events))

    until(lambda: heard(NodeJoined) and heard(NodeUp))
    added.kill()
    until(lambda: heard(NodeDown))
    added.listed = False
    until(lambda: heard(NodeLeft))
    assert all(event.reason for event in events)
    assert "the listener failed" in caplog.text
    client.close()


def test_a_joining_node_that_does_not_listen_gets_no_call(cluster: LocalCluster) -> None:
    client = new_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.05)
    nodes.refresh()
    added = cluster.add_node()
    added.stop()
    until(lambda: (get(client), added.address in {a.host for a in nodes.stats()})[1])
    for _ in range(12):
        get(client)
    address = next(a for a in nodes.stats() if a.host == added.address)
    assert nodes.stats()[address].calls == 0
    assert nodes.stats()[address].failures == 0  # no call tried it
    client.close()
