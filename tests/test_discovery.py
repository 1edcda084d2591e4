"""One GET /localnodes: what is taken for an answer, and what is not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

import pytest
import urllib3

from alternator_lb.addresses import NodeAddress
from alternator_lb.discovery import MAX_ANSWER_BYTES, Discovery
from alternator_lb.errors import DiscoveryError
from alternator_lb.settings import Settings

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
        for _ in range(2000):  # bounded, and far longer than anybody waits
            conn.sendall(forever)
            stop.wait(0.01)

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
    with pytest.raises(DiscoveryError, match="did not answer"):
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
        http.clear()


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
    discovery.close()
    for server in servers:
        server.close()
