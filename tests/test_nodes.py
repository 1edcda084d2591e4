"""AlternatorNodes: seeds, polling, what is published, and what it tells of itself."""

from __future__ import annotations

import pickle
import socket
import threading
from typing import Any

import pytest

from alternator_lb import (
    AlternatorError,
    AlternatorNodes,
    AlternatorPoolManager,
    DiscoveryError,
    InvalidSettingError,
    NoNodeReachableError,
    install_alternator_transport,
)
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, get, until


def hosts(nodes: AlternatorNodes) -> set[str]:
    return {address.host for address in nodes.live}


# -- seeds and settings --------------------------------------------------------------------------


def test_no_seed() -> None:
    with pytest.raises(InvalidSettingError, match="no seed was given"):
        AlternatorNodes("http", 8000)


def test_a_seed_that_contradicts() -> None:
    with pytest.raises(InvalidSettingError, match=r"8001.*8000"):
        AlternatorNodes("http", 8000, "10.0.0.1:8001")


@pytest.mark.parametrize(("scheme", "port"), [("ftp", 8000), ("http", 0), ("http", "8000")])
def test_a_scheme_or_port_that_is_none(scheme: Any, port: Any) -> None:
    with pytest.raises(InvalidSettingError, match="not possible"):
        AlternatorNodes(scheme, port, "10.0.0.1")


def test_an_unknown_setting() -> None:
    with pytest.raises(InvalidSettingError, match="there is no setting 'interval'"):
        AlternatorNodes("http", 8000, "10.0.0.1", interval=1)


def test_making_one_starts_no_thread() -> None:
    before = threading.active_count()
    nodes = AlternatorNodes("http", 8000, "127.0.0.1", "localhost")
    assert threading.active_count() == before
    assert hosts(nodes) == {"127.0.0.1"}
    assert "polling starts with the first call" in repr(nodes)


# -- finding nodes -------------------------------------------------------------------------------


def test_refresh_asks_here_and_now(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    before = threading.active_count()
    assert {address.host for address in nodes.refresh()} == set(cluster.addresses)
    assert threading.active_count() == before
    nodes.stop()


def test_start_does_not_wait_and_both_ends_can_be_repeated(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.start()
    nodes.start()
    until(lambda: len(nodes.live) == 3)
    nodes.stop()
    nodes.stop()
    assert "stopped" in repr(nodes)
    assert hosts(nodes) == set(cluster.addresses)
    nodes.start(fetch_interval=0.01)
    polled = sum(node.report.polls for node in cluster.nodes)
    until(lambda: sum(node.report.polls for node in cluster.nodes) > polled)
    nodes.stop()


def test_with_starts_and_stops(cluster: LocalCluster) -> None:
    with AlternatorNodes("http", cluster.port, *cluster.seeds) as nodes:
        until(lambda: len(nodes.live) == 3)
        assert "3 live of 3" in repr(nodes)
        assert "last answer" in repr(nodes)
    assert not any("alternator-lb" in thread.name for thread in threading.enumerate())


def test_a_dns_name_stands_for_its_addresses(cluster: LocalCluster, monkeypatch: Any) -> None:
    first, second, _ = cluster.addresses
    asked = []

    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "cluster.example":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in (first, second)]

    cluster.nodes[0].stop()
    nodes = AlternatorNodes("http", cluster.port, "cluster.example")
    with monkeypatch.context() as patch:
        patch.setattr("alternator_lb.polling.socket.getaddrinfo", resolve)
        nodes.refresh()
    assert asked == ["cluster.example"]
    assert second in hosts(nodes)
    nodes.refresh()  # the nodes are known: the name is not needed, and not resolved
    nodes.stop()


def test_a_name_that_cannot_be_resolved_is_named() -> None:
    nodes = AlternatorNodes("http", 8000, "does-not-exist.invalid")
    with pytest.raises(DiscoveryError, match=r"seed 'does-not-exist.invalid' cannot be resolved"):
        nodes.refresh()


def test_every_seed_unreachable_names_each(unused_ports: list[int]) -> None:
    port = unused_ports[0]
    nodes = AlternatorNodes("http", port, "127.0.0.1", "127.0.0.2")
    with pytest.raises(DiscoveryError) as error:
        nodes.refresh()
    assert f"127.0.0.1:{port}" in str(error.value)
    assert f"127.0.0.2:{port}" in str(error.value)
    assert "Check the seeds" in str(error.value)


@pytest.fixture
def unused_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return [listener.getsockname()[1]]


def test_a_list_that_did_not_change_replaces_nothing(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    tuple_before = nodes._members.live
    for _ in range(5):
        nodes.refresh()
    assert nodes._members.live is tuple_before
    nodes.stop()


# -- what it tells of itself -----------------------------------------------------------------------


def test_stats_count_for_each_node(cluster: LocalCluster, make_client: Any) -> None:

    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(30):
        get(client)
    stats = nodes.stats()
    assert {address.host for address in stats} == set(cluster.addresses)
    assert [(each.calls, each.connections, each.failures) for each in stats.values()] == [
        (10, 1, 0)
    ] * 3


def test_a_call_lets_a_node_in_only_where_nobody_probes(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    node = nodes._members.live[1]
    nodes.failed_to_connect(node, ConnectionRefusedError(111, "refused"), "refused")
    nodes.connected(node)
    assert nodes.stats()[node.address].state == "down"
    nodes.stop()
    nodes.connected(node)
    assert nodes.stats()[node.address].state == "up"


def test_it_can_be_pickled_and_starts_anew(cluster: LocalCluster) -> None:
    with AlternatorNodes("http", cluster.port, *cluster.seeds, fetch_interval=2) as nodes:
        copy = pickle.loads(pickle.dumps(nodes))
    assert copy.settings == nodes.settings
    assert "polling starts with the first call" in repr(copy)
    assert {address.host for address in copy.refresh()} == set(cluster.addresses)
    copy.stop()


def test_the_text_for_people_says_when_no_node_is_up() -> None:
    with LocalCluster(nodes=2) as cluster:
        nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
        nodes.refresh()
        for node in cluster.nodes:
            node.kill()
        with (
            AlternatorPoolManager(nodes, retries=False) as http,
            pytest.raises(NoNodeReachableError) as error,
        ):
            http.request("GET", f"http://{FAKE_DOMAIN}/")
        assert isinstance(error.value, AlternatorError)
        assert "none of 2 listed is up, so all are tried" in repr(nodes)
        nodes.stop()


def test_the_first_seed_that_answers_decides_the_datacenter() -> None:
    with LocalCluster(datacenters={"near": 2, "far": 2}) as cluster:
        near, far = (
            [node.address for node in cluster.nodes if node.datacenter == name]
            for name in ("near", "far")
        )
        for seeds, expected in (([near[0], far[0]], near), ([far[0], near[0]], far)):
            for _ in range(5):
                nodes = AlternatorNodes("http", cluster.port, *seeds)
                nodes.refresh()
                assert hosts(nodes) == set(expected)
                nodes.stop()
