"""AlternatorAdapter: the nodes for requests."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import requests

from alternator_lb import AlternatorAdapter, AlternatorNodes
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN
from .servers import ScriptedServer, answer


def test_mounted_requests_go_round(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    url = f"http://{FAKE_DOMAIN}:{cluster.port}"
    with requests.Session() as session:
        session.mount(url, AlternatorAdapter(nodes))
        for _ in range(9):
            assert session.get(url, timeout=5).text.startswith("healthy")
    assert [stats.calls for stats in nodes.stats().values()] == [3] * 3
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_a_proxy_of_the_environment_sees_nothing(
    cluster: LocalCluster, nodes: AlternatorNodes, monkeypatch: Any
) -> None:
    with ScriptedServer(lambda conn, _: conn.sendall(answer(b"trap"))) as trap:
        monkeypatch.setenv("HTTP_PROXY", trap.url)
        monkeypatch.setenv("http_proxy", trap.url)
        with requests.Session() as session:
            session.mount("http://", AlternatorAdapter(nodes))
            assert session.get(f"http://{FAKE_DOMAIN}/", timeout=5).text.startswith("healthy")
            session.proxies = {"http": trap.url}
            assert session.get(f"http://{FAKE_DOMAIN}/", timeout=5).text.startswith("healthy")
        assert trap.requests == []


def test_it_can_be_pickled(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    adapter = AlternatorAdapter(nodes, pool_maxsize=3, max_retries=2)
    copy = pickle.loads(pickle.dumps(adapter))
    assert copy.max_retries.total == 2
    with requests.Session() as session:
        session.mount("http://", copy)
        assert session.get(f"http://{FAKE_DOMAIN}/", timeout=5).text.startswith("healthy")
    copy.nodes.stop()
    adapter.close()


@pytest.mark.parametrize("block", [False, True])
def test_its_limits_count_for_each_node(nodes: AlternatorNodes, block: bool) -> None:
    adapter = AlternatorAdapter(nodes, pool_maxsize=3, pool_block=block)
    pools = adapter.get_connection_with_tls_context(
        requests.Request("GET", f"http://{FAKE_DOMAIN}/").prepare(), verify=True
    )._rotation.pools
    assert [(pool.pool.maxsize, pool.block) for pool in pools] == [(3, block)] * 3
    adapter.close()


def test_close_closes_connections_and_leaves_the_nodes(nodes: AlternatorNodes) -> None:
    adapter = AlternatorAdapter(nodes)
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.get(f"http://{FAKE_DOMAIN}/", timeout=5)
    assert "stopped" not in repr(nodes)
    session.get(f"http://{FAKE_DOMAIN}/", timeout=5)  # requests' sessions go on after close()
    session.close()


def test_no_node_is_requests_connection_error(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    for node in cluster.nodes:
        node.stop()
    with requests.Session() as session:
        session.mount("http://", AlternatorAdapter(nodes))
        with pytest.raises(requests.ConnectionError, match=cluster.addresses[0]):
            session.get(f"http://{FAKE_DOMAIN}/", timeout=5)
