"""The way of a call: turns, connections, failing over, and what is never done twice."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import ProtocolError

from alternator_lb import (
    AlternatorNodes,
    AlternatorPoolManager,
    NoNodeReachableError,
    install_alternator_transport,
)
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, get, make_table, until
from .servers import ScriptedServer, answer


@pytest.mark.parametrize("count", [3, 12, 30, 100, 300])
def test_after_each_nodes_first_call_no_call_opens_a_connection(
    count: int, make_client: Any
) -> None:
    calls = 3 * count
    with LocalCluster(nodes=count) as cluster:
        make_table(cluster)
        client = make_client(cluster)
        nodes = install_alternator_transport(client, cluster.seeds)
        nodes.refresh()
        for _ in range(calls):
            assert get(client) == "rex"
        reports = [node.report for node in cluster.nodes]
        assert [report.connections for report in reports] == [1] * count
        assert max(r.calls for r in reports) - min(r.calls for r in reports) <= 1
        assert sum(report.calls for report in reports) == calls
        assert {host for r in reports for host in r.hosts} == {f"{FAKE_DOMAIN}:{cluster.port}"}


def test_many_threads_share_the_turns_and_the_connections(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda _: get(client), range(960))) == {"rex"}
    reports = [node.report for node in cluster.nodes]
    assert [report.calls for report in reports] == [320] * 3  # no turn is lost or given twice
    assert sum(report.connections for report in reports) <= 3 * 16


def test_the_list_changes_under_load(cluster: LocalCluster, make_client: Any) -> None:
    """Ten changes, from 3 to 5 to 2 nodes and back, while 4 threads call."""
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.05)
    nodes.refresh()
    end = threading.Event()
    made = [0] * 4

    def call(caller: int) -> None:
        while not end.is_set():
            assert get(client) == "rex"
            made[caller] += 1

    def serves(node: Any) -> None:
        before = node.report.calls
        until(lambda: node.report.calls > before)

    def every_caller_goes_on() -> None:
        before = list(made)
        until(lambda: all(now > then + 1 for now, then in zip(made, before, strict=True)))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(call, caller) for caller in range(4)]
        try:
            for _ in range(2):
                added = [cluster.add_node() for _ in range(2)]
                for node in added:
                    serves(node)
                for node in [*added, cluster.nodes[1]]:
                    node.listed = False
                    until(lambda node=node: node.address not in {a.host for a in nodes.live})
                    every_caller_goes_on()  # calls that were on their way to it have arrived
                    after = node.report.calls
                    every_caller_goes_on()
                    assert node.report.calls == after  # a node that left gets nothing more
                back = cluster.nodes[1]
                back.listed = True
                serves(back)
                for node in added:
                    cluster.remove_node(node)
        finally:
            end.set()
    for caller in callers:
        caller.result()


def test_a_node_that_stays_keeps_its_pool_and_connections(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(3):
        get(client)
    cluster.nodes[2].listed = False
    nodes.refresh()
    cluster.add_node()
    nodes.refresh()
    for _ in range(9):
        get(client)
    assert [node.report.connections for node in cluster.nodes] == [1, 1, 1, 1]


def test_a_node_that_leaves_finishes_its_call_and_loses_its_idle_connections(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    for _ in range(6):
        get(client)
    leaving = cluster.nodes[2]
    address = next(a for a in nodes.live if a.host == leaving.address)
    leaving.freeze()
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(get, client) for _ in range(3)]
        until(lambda: nodes.stats()[address].calls == 3)
        leaving.listed = False
        nodes.refresh()
        assert leaving.address not in {address.host for address in nodes.live}
        leaving.thaw()
        assert [call.result(timeout=20) for call in calls] == ["rex"] * 3
    until(lambda: leaving.report.open_connections <= leaving.report.poll_connections)


def test_a_refused_connection_moves_on_to_the_next_node(
    cluster: LocalCluster, make_client: Any
) -> None:
    client = make_client(cluster)  # with no retry of botocore's
    nodes = install_alternator_transport(client, cluster.seeds)
    nodes.refresh()
    cluster.nodes[1].stop()
    assert [get(client) for _ in range(9)] == ["rex"] * 9
    assert cluster.nodes[1].report.calls == 0
    dead = next(a for a in nodes.stats() if a.host == cluster.nodes[1].address)
    assert nodes.stats()[dead].failures >= 1


def test_what_was_sent_is_not_sent_again(make_client: Any) -> None:
    """Each node closes without an answer after it has read the request: one call, one request."""

    def script(conn: Any, request: bytes) -> None:
        if request.startswith(b"GET"):
            conn.sendall(answer(b'["127.0.0.31", "127.0.0.32"]'))
        else:
            conn.close()

    first = ScriptedServer(script, "127.0.0.31")
    with first, ScriptedServer(script, "127.0.0.32", first.port) as second:
        nodes = AlternatorNodes("http", first.port, first.address)
        nodes.refresh()
        with (
            AlternatorPoolManager(nodes, retries=False) as http,
            pytest.raises(ProtocolError),
        ):
            http.request("POST", f"http://{FAKE_DOMAIN}/", body=b"{}")
        nodes.stop()
        sent = [r for s in (first, second) for r in s.requests if r.startswith(b"POST")]
    assert len(sent) == 1


def test_with_no_node_reachable_the_error_names_each(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    for node in cluster.nodes:
        node.stop()
    with AlternatorPoolManager(nodes, retries=False) as http:
        with pytest.raises(NoNodeReachableError) as error:
            http.request("GET", f"http://{FAKE_DOMAIN}/")
        for address in cluster.addresses:
            assert f"{address}:{cluster.port}: Connection refused" in str(error.value)
    nodes.stop()


def test_names_that_cannot_be_resolved_are_told_by_the_call() -> None:
    nodes = AlternatorNodes("http", 8000, "does-not-exist.invalid")
    with (
        AlternatorPoolManager(nodes, retries=False) as http,
        pytest.raises(NoNodeReachableError, match=r"'does-not-exist.invalid' cannot be resolved"),
    ):
        http.request("GET", f"http://{FAKE_DOMAIN}/")
    nodes.stop()


def test_a_connect_attempt_has_a_timeout_of_its_own() -> None:
    """A listener whose backlog is full drops what else arrives, as a lost route does."""
    import socket

    with (
        socket.socket() as listener,
        ScriptedServer(lambda conn, _: conn.sendall(answer(b"ok")), "127.0.0.42") as alive,
    ):
        listener.bind(("127.0.0.41", alive.port))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        nodes = AlternatorNodes("http", alive.port, "127.0.0.41", "127.0.0.42", connect_timeout=0.2)
        nodes.stop()  # nobody probes: calls have to find out
        with AlternatorPoolManager(nodes, retries=False, timeout=60) as http:
            for _ in range(2):  # one of the turns is the dead node's
                assert http.request("GET", f"http://{FAKE_DOMAIN}/").data == b"ok"
        stats = {address.host: each for address, each in nodes.stats().items()}
        for filler in fillers:
            filler.close()
    assert (stats["127.0.0.41"].failures, stats["127.0.0.42"].failures) == (1, 0)
    assert (stats["127.0.0.41"].state, stats["127.0.0.41"].reason) == ("down", "timed out")


def test_urllib3s_own_code_gets_a_socket_with_a_timeout(
    cluster: LocalCluster,
) -> None:
    """The lean path leaves one that does not block; urllib3 1.26 would send into it as it is."""
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds[:1])
    nodes.refresh()
    with AlternatorPoolManager(nodes, timeout=7) as http:
        pool = http.connection_from_url(f"http://{FAKE_DOMAIN}/")
        answer = pool.lean("POST", "/", b"{}", {"User-Agent": "x", "Content-Length": "2"})
        assert answer[0].status == 400
        conn = pool._get_conn()
        assert conn.sock.gettimeout() == 7
        pool._put_conn(conn)
    nodes.stop()


def test_blocking_pools_keep_their_places_when_calls_fail(cluster: LocalCluster) -> None:
    """With block=True a place that a failed call took would be missing for ever."""
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.refresh()
    with AlternatorPoolManager(nodes, maxsize=1, block=True, retries=False) as http:
        url = f"http://{FAKE_DOMAIN}/"
        for _ in range(3):
            assert http.request("GET", url).status == 200
        for node in cluster.nodes:
            node.freeze()
        for _ in range(6):
            with pytest.raises(urllib3.exceptions.ReadTimeoutError):
                http.request("GET", url, timeout=0.05)
        for node in cluster.nodes:
            node.thaw()
        for _ in range(6):
            assert http.request("GET", url, pool_timeout=5).status == 200
        http.clear()
        for _ in range(6):
            assert http.request("GET", url, pool_timeout=5).status == 200
    nodes.stop()
