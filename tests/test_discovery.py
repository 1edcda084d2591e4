"""One GET /localnodes: what is taken for an answer, and what is not."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import urllib3

from alternator_lb import AlternatorNodes, AlternatorPoolManager
from alternator_lb.addresses import NodeAddress
from alternator_lb.discovery import MAX_ANSWER_BYTES, Discovery
from alternator_lb.errors import DiscoveryError
from alternator_lb.settings import Settings
from alternator_lb.testing import LocalCluster

from .conftest import FAKE_DOMAIN
from .servers import Script, ScriptedServer, answer


def ask(script: Script, **settings: object) -> tuple[str, ...]:
    with ScriptedServer(script) as server:
        discovery = Discovery(Settings.of({"discovery_timeout": 0.5, **settings}))
        try:
            return tuple(
                node.host
                for node in discovery.ask(NodeAddress("http", server.address, server.port)).nodes
            )
        finally:
            discovery.close()


def says(body: bytes, status: str = "200 OK", *headers: str) -> Callable[..., None]:
    return lambda conn, request: conn.sendall(answer(body, status, *headers))


def test_a_good_answer() -> None:
    assert ask(says(b'["10.0.0.2", "10.0.0.1", "2001:db8::1"]')) == (
        "10.0.0.2",
        "10.0.0.1",
        "2001:db8::1",
    )


def test_an_address_that_is_listed_twice_counts_once() -> None:
    assert ask(says(b'["10.0.0.2", "10.0.0.2"]')) == ("10.0.0.2",)


def test_a_bad_entry_is_skipped_and_named() -> None:
    body = json.dumps(["10.0.0.1", "8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11", None]).encode()
    with ScriptedServer(says(body)) as server:
        discovery = Discovery(Settings())
        found = discovery.ask(NodeAddress("http", server.address, server.port))
        discovery.close()
    assert [node.host for node in found.nodes] == ["10.0.0.1"]
    assert len(found.skipped) == 2
    assert "8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11" in found.skipped[0]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (says(b"[]"), "empty list"),
        (says(b"{}"), "no list"),
        (says(b"<html>hello</html>"), "<html>"),
        (says(b'["8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11"]'), "8e1a4c2c"),
        (says(b'["10.0.0.1"]', "500 Internal Server Error"), "status 500"),
        (says(b"", "302 Found", "Location: http://127.0.0.1:1/"), "status 302"),
        (says(b'["' + b"1" * (MAX_ANSWER_BYTES + 1) + b'"]'), "more than"),
        (says(b"\xff\xfe["), "no JSON"),
        (says(b"[" * 100_000), "no JSON"),
        (lambda conn, request: conn.sendall(b"garbage, not HTTP\r\n\r\n"), "did not answer"),
        (lambda conn, request: conn.close(), "did not answer"),
        (
            lambda conn, request: (
                conn.sendall(answer(b'["10.0.0.1", "10.0.0.2"]')[:-5]),
                conn.close(),
            ),
            "127.0.0.1",
        ),
    ],
)
def test_a_bad_answer_says_who_gave_it_and_what_it_was(script: Script, said: str) -> None:
    with pytest.raises(DiscoveryError, match=said) as error:
        ask(script)
    assert "127.0.0.1:" in str(error.value)


def drip(head: bytes, forever: bytes) -> Script:
    stop = threading.Event()

    def script(conn: socket.socket, request: bytes) -> None:
        conn.sendall(head)
        for _ in range(1000):  # bounded, and far longer than anybody waits
            conn.sendall(forever)
            stop.wait(0.01)
        conn.close()  # it looks different from being cut off

    return script


@pytest.mark.parametrize(
    "script",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[", b" "),
        drip(b"HTTP/1.1 200 OK\r\n\r\n[", b" "),
        drip(b"HTTP/1.1 200 OK\r\n", b"X"),
        drip(b"", b"H"),
    ],
    ids=["body", "body-without-end", "headers", "status-line"],
)
def test_a_drip_that_never_ends_is_cut_off(script: Script) -> None:
    with pytest.raises(DiscoveryError, match=r"did not answer.*timed out"):
        ask(script, discovery_timeout=0.3)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DiscoveryError, match=f"127.0.0.1:{port} did not answer.*refused"):
        Discovery(Settings()).ask(NodeAddress("http", "127.0.0.1", port))


def test_the_connection_is_kept_open() -> None:
    with ScriptedServer(says(b'["10.0.0.1"]')) as server:
        discovery = Discovery(Settings())
        for _ in range(3):
            discovery.ask(NodeAddress("http", server.address, server.port))
        assert len(server.requests) == 3
        assert server.accepted == 1
        discovery.close()


def test_the_users_own_http_client_is_used() -> None:
    http = urllib3.PoolManager(headers={"X": "y"})
    with ScriptedServer(says(b'["10.0.0.1"]')) as server:
        discovery = Discovery(Settings.of({"http": http}))
        discovery.ask(NodeAddress("http", server.address, server.port))
        assert len(http.pools) == 1
        discovery.close()
        http.request("GET", server.url)  # it was not closed with the rest: it is the user's
        assert server.accepted == 1
        http.clear()


def test_the_users_own_proxy_is_told_the_whole_url() -> None:
    with (
        ScriptedServer(says(b'["10.0.0.1"]')) as server,
        urllib3.ProxyManager(server.url) as http,
    ):
        Discovery(Settings.of({"http": http})).ask(NodeAddress("http", "10.0.0.1", 8000))
        assert server.requests[0].startswith(b"GET http://10.0.0.1:8000/localnodes ")


def test_after_a_fork_the_child_opens_connections_of_its_own() -> None:
    with ScriptedServer(says(b'["10.0.0.1"]')) as server:
        discovery = Discovery(Settings())
        address = NodeAddress("http", server.address, server.port)
        discovery.ask(address)
        discovery.after_fork_in_child()
        discovery.ask(address)
        assert server.accepted == 2
        discovery.close()


def test_after_a_fork_the_users_own_http_client_is_like_before() -> None:
    http = urllib3.PoolManager(num_pools=7)
    before = http.pools
    before.dispose_func = lambda pool: pool.close()
    Discovery(Settings.of({"http": http})).after_fork_in_child()
    assert http.pools is not before
    assert (type(http.pools), http.pools._maxsize) == (type(before), 7)
    assert http.pools.dispose_func is before.dispose_func


@pytest.mark.parametrize(("connect", "whole"), [(0.4, 5.0), (5.0, 0.4)])
def test_the_shorter_timeout_is_that_of_connecting(
    connect: float, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def refuse(address: object, timeout: float, *args: object, **kwargs: object) -> None:
        given.append(timeout)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr("urllib3.util.connection.create_connection", refuse)
    discovery = Discovery(Settings(connect_timeout=connect, discovery_timeout=whole))
    with pytest.raises(DiscoveryError, match="refused"):
        discovery.ask(NodeAddress("http", "127.0.0.1", 8000))
    assert given == [0.4]


def test_a_connection_that_is_closed_as_it_is_used_is_no_silence() -> None:
    """The probe is made once more. A poll need not be: another node is asked."""

    def script(conn: socket.socket, request: bytes) -> None:
        if len(server.requests) == 2:
            conn.close()
        else:
            conn.sendall(answer(b"[]"))

    with ScriptedServer(script) as server:
        discovery = Discovery(Settings(discovery_timeout=20.0))
        address = NodeAddress("http", server.address, server.port)
        assert [discovery.probe(address) for _ in range(2)] == [200, 200]
        assert (len(server.requests), server.accepted) == (3, 2)
        discovery.close()


def test_a_silent_node_is_probed_once() -> None:
    with ScriptedServer(lambda conn, request: None) as server:
        discovery = Discovery(Settings(discovery_timeout=0.1))
        with pytest.raises(DiscoveryError, match="timed out"):
            discovery.probe(NodeAddress("http", server.address, server.port))
        assert len(server.requests) == 1
        discovery.close()


def test_a_seed_by_name_is_verified_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(nodes=2, tls="name-only") as cluster:
        real = socket.getaddrinfo

        def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
            if host != cluster.server_name:
                return real(host, port, *args, **kwargs)
            return [(socket.AF_INET, 1, 6, "", (address, port)) for address in cluster.addresses]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        nodes = AlternatorNodes(
            "https", cluster.port, cluster.server_name, verify=str(cluster.ca_path)
        )
        for node in cluster.nodes:
            node.answer_localnodes(500)
        with pytest.raises(DiscoveryError, match="status 500"):  # its certificate was taken
            nodes.refresh()
        with AlternatorPoolManager(nodes, retries=False) as http:
            assert http.request("GET", f"https://{FAKE_DOMAIN}/").status == 200
        nodes.stop()


def test_polls_keep_a_bounded_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alternator_lb.discovery.MOST_POOLS", 3)
    first = ScriptedServer(says(b'["127.0.0.81"]'), "127.0.0.81")
    servers = [first] + [
        ScriptedServer(says(b'["127.0.0.81"]'), f"127.0.0.{n}", first.port)
        for n in (82, 83, 84, 85)
    ]
    discovery = Discovery(Settings())
    for _ in range(2):
        for server in servers:
            discovery.ask(NodeAddress("http", server.address, server.port))
    for server in servers[-3:]:
        discovery.ask(NodeAddress("http", server.address, server.port))
    assert [server.accepted for server in servers] == [2] * 5
    discovery.ask(NodeAddress("http", servers[2].address, first.port))
    discovery.ask(NodeAddress("http", servers[0].address, first.port))  # closes that of [3]
    discovery.ask(NodeAddress("http", servers[2].address, first.port))
    assert [server.accepted for server in servers] == [3, 2, 2, 2, 2]
    discovery.close()
    for server in servers:
        server.close()
