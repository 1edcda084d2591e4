"""AlternatorPoolManager: a urllib3 PoolManager to its users, the whole cluster underneath."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from urllib3.util import Retry

from alternator_lb import AlternatorNodes, AlternatorPoolManager, InvalidSettingError
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN
from .servers import ScriptedServer, answer


@pytest.fixture
def nodes(cluster: LocalCluster) -> Iterator[AlternatorNodes]:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    yield nodes
    nodes.stop()


def test_every_request_goes_to_the_next_node(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for _ in range(9):
            response = http.request("GET", f"http://{FAKE_DOMAIN}:{cluster.port}/")
            assert response.status == 200
            assert response.data.startswith(b"healthy")
    assert [stats.calls for stats in nodes.stats().values()] == [3] * 3
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_the_host_header_is_the_fake_domain_or_the_users_own() -> None:
    with ScriptedServer(lambda conn, _: conn.sendall(answer(b""))) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        with AlternatorPoolManager(nodes) as http:
            http.request("GET", f"http://{FAKE_DOMAIN}:8000/")
            http.request("GET", "http://other.example/")
            http.request("GET", "http://other.example/", headers={"host": "third.example"})
        nodes.stop()
        hosts = [
            line
            for request in server.requests
            if b"/localnodes" not in request
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"host:")
        ]
    assert hosts == [b"Host: dog.scylladb.com:8000", b"Host: other.example", b"host: third.example"]


def test_fake_hosts_share_the_nodes_connections(nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for name in ("a.example", "b.example", "c.example"):
            for _ in range(3):
                http.request("GET", f"http://{name}/")
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_urllib3s_retries_take_the_next_turn(cluster: LocalCluster) -> None:
    answered: list[str] = []

    def script(conn: Any, request: bytes) -> None:
        if b"/localnodes" in request:
            conn.sendall(answer(b'["127.0.0.51", "127.0.0.52"]'))
            return
        answered.append(conn.getsockname()[0])
        status = "503 Busy" if len(answered) == 1 else "200 OK"
        conn.sendall(answer(b"x", status))

    first = ScriptedServer(script, "127.0.0.51")
    with first, ScriptedServer(script, "127.0.0.52", first.port):
        nodes = AlternatorNodes("http", first.port, first.address)
        nodes.refresh()
        with AlternatorPoolManager(nodes, retries=Retry(2, status_forcelist=[503])) as http:
            assert http.request("GET", f"http://{FAKE_DOMAIN}/").status == 200
        nodes.stop()
    assert sorted(answered) == ["127.0.0.51", "127.0.0.52"]


def test_a_redirect_stays_within_the_cluster() -> None:
    def script(conn: Any, request: bytes) -> None:
        if b"GET /old" in request:
            conn.sendall(answer(b"", "302 Found", "Location: http://elsewhere.invalid/new"))
        else:
            conn.sendall(answer(request.split(b"\r\n")[0]))

    with ScriptedServer(script) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        with AlternatorPoolManager(nodes) as http:
            assert b"GET /new" in http.request("GET", f"http://{FAKE_DOMAIN}/old").data
        nodes.stop()


def test_clear_closes_idle_connections_and_leaves_the_nodes(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    http = AlternatorPoolManager(nodes)
    url = f"http://{FAKE_DOMAIN}/"
    for _ in range(3):
        http.request("GET", url)
    http.clear()
    for _ in range(3):
        http.request("GET", url)
    assert [stats.connections for stats in nodes.stats().values()] == [2] * 3
    http.clear()


def test_streamed_responses_give_their_connection_back(nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes) as http:
        for _ in range(6):
            response = http.request("GET", f"http://{FAKE_DOMAIN}/", preload_content=False)
            assert response.read().startswith(b"healthy")
            response.release_conn()
    assert [stats.connections for stats in nodes.stats().values()] == [1] * 3


def test_maxsize_is_for_each_node(cluster: LocalCluster, nodes: AlternatorNodes) -> None:
    with AlternatorPoolManager(nodes, maxsize=2) as http:
        url = f"http://{FAKE_DOMAIN}/"
        open_ones = [http.request("GET", url, preload_content=False) for _ in range(12)]
        for response in open_ones:
            response.drain_conn()
            response.release_conn()
        opened = sum(stats.connections for stats in nodes.stats().values())
        assert opened == 12
        again = [http.request("GET", url, preload_content=False) for _ in range(6)]
        assert sum(stats.connections for stats in nodes.stats().values()) == opened
        for response in again:
            response.drain_conn()
            response.release_conn()


def test_a_host_is_needed(nodes: AlternatorNodes) -> None:
    with pytest.raises(urllib3.exceptions.LocationValueError):
        AlternatorPoolManager(nodes).connection_from_host(None)


def test_https_is_never_sent_in_clear_text(nodes: AlternatorNodes) -> None:
    with pytest.raises(InvalidSettingError, match=r"https://dog.*speak http"):
        AlternatorPoolManager(nodes).request("GET", f"https://{FAKE_DOMAIN}/")


def test_what_is_no_nodes_is_named() -> None:
    with pytest.raises(InvalidSettingError, match="no AlternatorNodes"):
        AlternatorPoolManager("10.0.0.1")  # type: ignore[arg-type]


def test_different_settings_do_not_share_connections(nodes: AlternatorNodes) -> None:
    http = AlternatorPoolManager(nodes)
    first = http.connection_from_host(FAKE_DOMAIN, 8000, "http")
    assert http.connection_from_host(FAKE_DOMAIN.upper(), 8000, "http") is first
    assert http.connection_from_host(FAKE_DOMAIN, 8000, "http", {"maxsize": 3}) is not first
    assert http.connection_from_url(f"http://{FAKE_DOMAIN}:8000/x") is first


def test_a_client_that_nobody_refers_to_closes_its_connections(
    cluster: LocalCluster, nodes: AlternatorNodes
) -> None:
    import gc

    from .conftest import until

    def use() -> None:
        http = AlternatorPoolManager(nodes)
        for _ in range(3):
            http.request("GET", f"http://{FAKE_DOMAIN}/")

    use()
    gc.collect()
    nodes.stop()  # closes the connections of the polls
    until(lambda: sum(node.report.open_connections for node in cluster.nodes) == 0)


def test_threads_make_one_rotation(nodes: AlternatorNodes) -> None:
    http = AlternatorPoolManager(nodes)
    ready = threading.Barrier(8)
    pools = []

    def ask() -> None:
        ready.wait()
        pools.append(http.connection_from_url(f"http://{FAKE_DOMAIN}/"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, pools))) == 1


@pytest.mark.parametrize(
    "timeout",
    [None, 3, 3.5, urllib3.Timeout(total=5), urllib3.Timeout(connect=1, read=None)],
    ids=str,
)
def test_every_kind_of_timeout(nodes: AlternatorNodes, timeout: Any) -> None:
    url = f"http://{FAKE_DOMAIN}/"
    given = {"retries": False, "preload_content": False, "decode_content": False, "body": b""}
    with AlternatorPoolManager(nodes, timeout=timeout) as http:
        assert http.request("GET", url).status == 200
        assert http.request("GET", url, timeout=timeout).status == 200
        response = http.urlopen("GET", url, **given)
        assert response.status == 200
        response.drain_conn()
    with AlternatorPoolManager(nodes) as http:
        response = http.urlopen("GET", url, **given)
        assert response.read().startswith(b"healthy")
