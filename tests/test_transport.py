"""The way of a call: turns, connections, failing over, and what is never done twice."""

from __future__ import annotations

import concurrent.futures
import errno
import socket
import threading
import warnings
from typing import Any

import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, HTTPClientError, ReadTimeoutError
from urllib3.exceptions import InsecureRequestWarning, ProtocolError

from alternator_lb import (
    AlternatorNodes,
    AlternatorPoolManager,
    NoNodeReachableError,
    install_alternator_transport,
)
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN, get, make_table, new_client, until
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
    assert [stats.failures for stats in nodes.stats().values()] == [1] * 3  # none is tried twice
    assert "failover_timeout" not in str(error.value)
    nodes.stop()


def test_one_node_that_is_not_trusted_is_not_the_reason_for_all() -> None:
    """An SSLError says that the certificates are wrong: of each node, or it is not said."""
    with LocalCluster(nodes=2, tls=True, certificates={0: "unknown-ca"}) as cluster:
        nodes = AlternatorNodes("https", cluster.port, *cluster.addresses)
        nodes.stop()
        client = new_client(cluster, verify=cluster.ca_path)
        install_alternator_transport(client, nodes)
        cluster.nodes[1].stop()
        with pytest.raises(EndpointConnectionError) as error:
            client.list_tables()
        assert "refused" in str(error.value)
        client.close()


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


@pytest.mark.parametrize(
    ("own", "settings", "limit"),
    [
        (0.3, {}, 0.3),
        (7, {}, 1.5),
        (None, {}, 1.5),
        (7, {"connect_timeout": 0.4}, 0.4),
        (7, {"failover_timeout": 0.2}, 0.2),
    ],
)
def test_the_shortest_limit_counts_for_connecting(
    cluster: LocalCluster, monkeypatch: Any, own: Any, settings: Any, limit: float
) -> None:
    """The call's own, the nodes', and what is left of the time for all attempts."""
    real, given = urllib3.util.connection.create_connection, []

    def connect(address: Any, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
        given.append(timeout)
        return real(address, timeout, *args, **kwargs)

    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds, **settings)
    nodes.stop()
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with AlternatorPoolManager(nodes, timeout=urllib3.Timeout(connect=own, read=30)) as http:
        assert http.request("GET", f"http://{FAKE_DOMAIN}/").status == 200
        (conn,) = [c for pool in pools_of(http) for c in pool.pool._idle]
        assert conn.sock.gettimeout() == 30
    assert given == [pytest.approx(limit)]


def pools_of(http: AlternatorPoolManager) -> Any:
    """The pools of the nodes."""
    return http.connection_from_url(f"http://{FAKE_DOMAIN}/")._rotation.pools


def test_a_call_without_a_timeout_waits_after_one_with_a_timeout() -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def script(conn: socket.socket, request: bytes) -> None:
        if b"/slow" in request:
            asked.set()
            may_answer.wait(20)
        conn.sendall(answer(b"{}"))

    with ScriptedServer(script) as server:
        nodes = AlternatorNodes("http", server.port, server.address, lean=True)
        nodes.stop()
        with AlternatorPoolManager(nodes, timeout=urllib3.Timeout(connect=5, read=5)) as http:
            pool = http.connection_from_url(f"http://{FAKE_DOMAIN}/")
            assert pool.lean("POST", "/", b"{}", PLAIN)[0].status == 200
            (conn,) = pools_of(http)[0].pool._idle
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                call = thread.submit(pool.urlopen, "POST", "/slow", b"{}", PLAIN, timeout=None)
                assert asked.wait(20)
                until(lambda: conn.sock.gettimeout() is None)
                assert not any(conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
                may_answer.set()
                assert call.result(timeout=20).status == 200


PLAIN = {"User-Agent": "x", "Content-Length": "2"}


@pytest.mark.parametrize("lean", [True, False])
def test_the_read_timeout_counts_on_a_connection_object_that_connects_again(lean: bool) -> None:
    """The node closes after each answer; with connect_timeout=None nothing else sets a limit."""
    silent, over = threading.Event(), threading.Event()

    def script(conn: socket.socket, request: bytes) -> None:
        if silent.is_set():
            over.wait(20)
        conn.sendall(answer(b'{"TableNames": []}', "200 OK", "Connection: close"))
        conn.close()

    with ScriptedServer(script) as server:
        nodes = AlternatorNodes("http", server.port, server.address, lean=lean)
        nodes.stop()
        config = Config(connect_timeout=None, read_timeout=0.5, retries={"max_attempts": 0})
        client = nodes.client(FAKE_DOMAIN, "alternator", "secret_pass", config=config)
        client.list_tables()
        silent.set()
        with pytest.raises(ReadTimeoutError):
            client.list_tables()
        over.set()
        client.close()


@pytest.mark.parametrize("seconds", [1e9, None])
def test_a_timeout_may_be_as_long_as_one_likes(cluster: LocalCluster, seconds: Any) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds, lean=True)
    nodes.refresh()
    timeout = urllib3.Timeout(connect=seconds, read=seconds)
    with AlternatorPoolManager(nodes, timeout=timeout) as http:
        pool = http.connection_from_url(f"http://{FAKE_DOMAIN}/")
        head, *_ = pool.lean("POST", "/", b"{}", {"User-Agent": "x", "Content-Length": "2"})
        assert head.status == 400
    nodes.stop()


def test_urllib3s_own_code_gets_a_socket_with_a_timeout(
    cluster: LocalCluster,
) -> None:
    """The lean path leaves one that does not block; urllib3 1.26 would send into it as it is."""
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds[:1], lean=True)
    nodes.stop()
    with AlternatorPoolManager(nodes, timeout=7) as http:
        pool = http.connection_from_url(f"http://{FAKE_DOMAIN}/")
        new = pool._get_conn()
        assert new.sock.gettimeout() == 7
        pool._put_conn(new)
        assert pool.lean("POST", "/", b"{}", PLAIN)[0].status == 400
        assert new.sock.gettimeout() == 0
        idle = pool._get_conn()
        assert idle is new
        assert idle.sock.gettimeout() == 7
        pool._put_conn(idle)


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


@pytest.mark.parametrize(
    ("raised", "comes_out"),
    [
        (OSError(errno.EMFILE, "Too many open files"), NoNodeReachableError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["error", "interrupt"],
)
def test_in_a_blocking_pool_what_connecting_ends_with_comes_out(
    monkeypatch: Any, raised: BaseException, comes_out: type[BaseException]
) -> None:
    """Not FullPoolError: the place of the thread's last call was given back by then."""

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    with ScriptedServer(lambda conn, _: conn.sendall(answer(b"{}"))) as server:
        nodes = AlternatorNodes("http", server.port, server.address)
        nodes.stop()
        with AlternatorPoolManager(nodes, maxsize=1, block=True, retries=False) as http:
            url = f"http://{FAKE_DOMAIN}/"
            assert http.request("GET", url).status == 200
            http.clear()
            with monkeypatch.context() as patch:
                patch.setattr("urllib3.util.connection.create_connection", fail)
                for _ in range(2):
                    with pytest.raises(comes_out):
                        http.request("GET", url, pool_timeout=5)
            assert http.request("GET", url, pool_timeout=5).status == 200


@pytest.mark.parametrize("lean", [True, False])
def test_a_read_timeout_is_no_broken_answer(lean: bool) -> None:
    """It says nothing about the node: the watch finds out, where there is one."""
    over = threading.Event()

    def script(conn: socket.socket, request: bytes) -> None:
        if conn.getsockname()[0] == "127.0.2.2":
            over.wait(20)
        conn.sendall(answer(b'{"TableNames": []}'))

    first = ScriptedServer(script, "127.0.2.1")
    with first, ScriptedServer(script, "127.0.2.2", first.port):
        nodes = AlternatorNodes("http", first.port, "127.0.2.1", "127.0.2.2", lean=lean)
        client = scripted_client(nodes, read_timeout=0.1)
        for _ in range(8):
            outcome(client)
        over.set()
        client.close()
    stats = {address.host: each for address, each in nodes.stats().items()}
    assert stats["127.0.2.2"].calls == 4
    assert {each.state for each in stats.values()} == {"up"}


@pytest.mark.parametrize("lean", [True, False])
def test_a_good_answer_ends_a_row_of_broken_ones(lean: bool) -> None:
    turns = iter(range(100))

    def script(conn: socket.socket, request: bytes) -> None:
        if conn.getsockname()[0] == "127.0.2.4" and next(turns) % 3:
            conn.close()
        else:
            conn.sendall(answer(b'{"TableNames": []}'))

    first = ScriptedServer(script, "127.0.2.3")
    with first, ScriptedServer(script, "127.0.2.4", first.port):
        nodes = AlternatorNodes("http", first.port, "127.0.2.3", "127.0.2.4", lean=lean)
        client = scripted_client(nodes)
        outcomes = [outcome(client) for _ in range(24)]
        client.close()
    assert outcomes.count("answer") == 16
    assert {each.state for each in nodes.stats().values()} == {"up"}


def scripted_client(nodes: AlternatorNodes, **config: Any) -> Any:
    """A client for nodes that nobody polls: what calls find out is all that counts."""
    nodes.stop()
    config_ = Config(retries={"max_attempts": 0}, **config)
    return nodes.client(FAKE_DOMAIN, "alternator", "secret_pass", config=config_)


def outcome(client: Any) -> str:
    try:
        client.list_tables()
    except HTTPClientError as error:
        return type(error).__name__
    return "answer"


def test_a_child_process_closes_what_its_parent_goes_on_using(cluster: LocalCluster) -> None:
    nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
    nodes.stop()
    with AlternatorPoolManager(nodes) as http:
        pool = http.connection_from_url(f"http://{FAKE_DOMAIN}/")
        conn = pool._get_conn()
        pool._rotation.forget_inherited()  # as in a child that was forked in the midst of a call
        pool._put_conn(conn)
        assert conn.sock is None
        assert [len(each.pool._idle) for each in pool._rotation.pools] == [0] * len(cluster.seeds)
        pool._put_conn(pool._get_conn())  # one that the child has opened is kept
        assert sum(len(each.pool._idle) for each in pool._rotation.pools) == 1


@pytest.mark.parametrize("lean", [True, False])
def test_a_warning_that_is_an_error_leaks_no_connection(lean: bool) -> None:
    """It is raised in the midst of a call; botocore names it as it does without this library."""
    with LocalCluster(nodes=1, tls=True) as cluster:
        nodes = AlternatorNodes("https", cluster.port, *cluster.addresses, verify=False, lean=lean)
        nodes.stop()
        client = new_client(cluster, verify=False)
        install_alternator_transport(client, nodes)
        with warnings.catch_warnings():
            warnings.simplefilter("error", InsecureRequestWarning)
            manager = client._endpoint.http_session._manager
            rotation = manager.connection_from_url(client.meta.endpoint_url)._rotation
            for _ in range(3):
                with pytest.raises(HTTPClientError, match="Unverified HTTPS request") as error:
                    client.list_tables()
                assert rotation._open_ones == set(), error  # which refers to what was left open
        until(lambda: cluster.nodes[0].report.open_connections == 0)
        client.close()
