"""Answers that break off or are nonsense: botocore's error, on that call only."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from alternator_lb import AlternatorNodes, install_alternator_transport
from alternator_lb.testing import LocalCluster

from ..conftest import FAKE_DOMAIN, new_client, until
from ..servers import ScriptedServer, answer

GOOD = json.dumps({"Item": {"name": {"S": "rex"}}}).encode()


def reset(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def half_then_reset(conn: socket.socket) -> None:
    conn.sendall(answer(GOOD)[:-10])
    reset(conn)


def cut_short(conn: socket.socket) -> None:
    conn.sendall(answer(GOOD)[:-10])
    conn.close()


def garbage(conn: socket.socket) -> None:
    conn.sendall(b"\x00\x01 this is not HTTP\r\n\r\n")
    conn.close()


def too_long(conn: socket.socket) -> None:
    """Says less than it sends: the rest must never be taken for the next answer."""
    conn.sendall(answer(GOOD) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def too_short(conn: socket.socket) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + GOOD)


def endless_headers(conn: socket.socket) -> None:
    conn.sendall(answer(GOOD, "200 OK", *(f"X-{n}: y" for n in range(200))))


def long_header(conn: socket.socket) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n" + GOOD)


def closed_at_once(conn: socket.socket) -> None:
    conn.close()


FAULTS = [half_then_reset, cut_short, garbage, too_short, endless_headers, long_header]
FAULTS += [closed_at_once]


class Servers:
    """Two scripted nodes that list each other; the next answers can be made bad."""

    def __init__(self) -> None:
        self.faults: list[Callable[[socket.socket], None]] = []
        self.bad_at: list[str] = []
        first = ScriptedServer(self.script, "127.0.0.61")
        self.servers = [first, ScriptedServer(self.script, "127.0.0.62", first.port)]
        self.port = first.port

    def script(self, conn: socket.socket, request: bytes) -> None:
        if b"GET /localnodes" in request:
            conn.sendall(answer(json.dumps(["127.0.0.61", "127.0.0.62"]).encode()))
            return
        if self.faults:
            self.bad_at.append(conn.getsockname()[0])
            self.faults.pop()(conn)
            return
        name = json.loads(request.partition(b"\r\n\r\n")[2])["Key"]["name"]["S"]
        conn.sendall(answer(json.dumps({"Item": {"name": {"S": name}}}).encode()))

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


def client_for(port: int, endpoint: str = FAKE_DOMAIN, **config: Any) -> Any:
    return boto3.session.Session().client(
        "dynamodb",
        endpoint_url=f"http://{endpoint}:{port}",
        region_name="us-east-1",
        aws_access_key_id="alternator",
        aws_secret_access_key="secret_pass",
        config=Config(**{"retries": {"max_attempts": 0}, **config}),
    )


def read(client: Any, name: str) -> Any:
    found = client.get_item(TableName="animals", Key={"name": {"S": name}})
    return found["Item"]["name"]["S"]


def outcome(client: Any) -> Any:
    """What a call gives: the exception's type, or the answer (botocore takes half a one, too)."""
    try:
        found = client.get_item(TableName="animals", Key={"name": {"S": "rex"}})
    except (BotoCoreError, ResponseParserError) as error:
        return type(error)
    return found["Item"]["name"]["S"] if "Item" in found else sorted(found)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_bad_answer_is_botocores_error_on_that_call_only(
    servers: Servers, fault: Callable[[socket.socket], None]
) -> None:
    client = client_for(servers.port)
    nodes = install_alternator_transport(client, "127.0.0.61")
    nodes.refresh()
    for number in range(4):
        assert read(client, f"before-{number}") == f"before-{number}"
    for round_ in range(4):
        servers.faults = [fault]
        assert outcome(client) != "rex"
        for number in range(4):  # no other call sees a byte of it
            assert read(client, f"{round_}-{number}") == f"{round_}-{number}"
    client.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_comes_of_it_is_what_plain_boto3_makes_of_it(
    servers: Servers, fault: Callable[[socket.socket], None]
) -> None:
    outcomes = []
    for install in (False, True):
        if install:
            client = client_for(servers.port)
            install_alternator_transport(client, "127.0.0.61").refresh()
        else:
            client = client_for(servers.port, "127.0.0.61")
        servers.faults = [fault]
        outcomes.append(outcome(client))
        client.close()
    assert outcomes[0] == outcomes[1]


def test_bytes_beyond_the_answer_reach_no_other_call(servers: Servers) -> None:
    client = client_for(servers.port)
    install_alternator_transport(client, "127.0.0.61").refresh()
    for round_ in range(6):
        servers.faults = [too_long]
        assert read(client, "rex") == "rex"
        for number in range(4):
            assert read(client, f"{round_}-{number}") == f"{round_}-{number}"
    client.close()


@pytest.mark.parametrize("fault", [cut_short, half_then_reset, closed_at_once])
def test_broken_answers_in_a_row_from_one_node_convict_it(
    servers: Servers, fault: Callable[[socket.socket], None]
) -> None:
    client = client_for(servers.port)
    nodes = install_alternator_transport(client, "127.0.0.61")
    nodes.refresh()
    nodes.stop()  # nobody lets it in again while we look
    broken = next(a for a in nodes.live if a.host == "127.0.0.62")
    failed = 0
    for _ in range(20):
        before = nodes.stats()[broken].calls

        def script(conn: socket.socket, request: bytes) -> None:
            if conn.getsockname()[0] == "127.0.0.62":
                fault(conn)
            else:
                Servers.script(servers, conn, request)

        for server in servers.servers:
            server.script = script
        if outcome(client) != "rex":
            failed += 1
            assert nodes.stats()[broken].calls == before + 1
        if nodes.stats()[broken].state == "down":
            break
    assert failed == 3
    assert "3 answers in a row broke off" in nodes.stats()[broken].reason
    assert {address.host for address in nodes.live} == {"127.0.0.61"}
    client.close()


@pytest.mark.parametrize("lean", [True, False])
def test_a_good_answer_ends_the_row_of_broken_ones(servers: Servers, lean: bool) -> None:
    client = client_for(servers.port)
    nodes = install_alternator_transport(client, "127.0.0.61", lean=lean)
    nodes.refresh()
    nodes.stop()
    turn = itertools.count(1)

    def script(conn: socket.socket, request: bytes) -> None:
        if conn.getsockname()[0] == "127.0.0.62" and next(turn) % 3:
            closed_at_once(conn)
        else:
            Servers.script(servers, conn, request)

    for server in servers.servers:
        server.script = script
    outcomes = [outcome(client) for _ in range(24)]
    assert sum(each != "rex" for each in outcomes) == 8  # of the 12 of one node two in three
    assert {stats.state for stats in nodes.stats().values()} == {"up"}
    client.close()


@pytest.mark.parametrize("lean", [True, False])
def test_server_errors_and_overload_convict_nobody_and_are_counted(lean: bool) -> None:
    answers = iter(
        [
            (b'{"__type": "x#RequestLimitExceeded", "message": "too much"}', "400 Bad Request"),
            (b'{"__type": "x#ValidationException", "message": "wrong"}', "400 Bad Request"),
            (b"{}", "500 Internal Server Error"),
        ]
        * 4
    )

    def script(conn: socket.socket, request: bytes) -> None:
        if b"GET /localnodes" in request:
            conn.sendall(answer(b'["127.0.0.63"]'))
        else:
            conn.sendall(answer(*next(answers)))

    with ScriptedServer(script, "127.0.0.63") as server:
        client = client_for(server.port)
        nodes = install_alternator_transport(client, "127.0.0.63", lean=lean)
        nodes.refresh()
        for _ in range(12):
            with pytest.raises(ClientError):
                read(client, "x")
        (stats,) = nodes.stats().values()
        client.close()
    assert (stats.state, stats.server_errors, stats.overloads) == ("up", 4, 4)


def test_a_connection_that_was_closed_while_idle_is_noticed(servers: Servers) -> None:
    client = client_for(servers.port)
    nodes = install_alternator_transport(client, "127.0.0.61")
    nodes.refresh()
    for number in range(2):
        read(client, str(number))
    for server in servers.servers:
        for conn in list(server._open):
            conn.shutdown(socket.SHUT_RDWR)
    for number in range(4):
        assert read(client, str(number)) == str(number)
    assert {stats.state for stats in nodes.stats().values()} == {"up"}
    client.close()


BAD_LISTS: list[dict[str, Any]] = [
    {"body": b"[]"},
    {"body": b"{}"},
    {"body": b"<html>maintenance</html>"},
    {"body": b'["' + b"1" * (10 << 20) + b'"]'},
    {"body": b'["8e1a4c2c-7d4b-4a6c-9d3a-6b1f1f0e2d11"]'},
    {"body": b"oops", "status": 500},
    {"body": b"", "status": 302, "headers": {"Location": "http://127.0.0.1:1/localnodes"}},
]


@pytest.mark.parametrize(
    "bad", BAD_LISTS, ids=["empty", "{}", "html", "10MB", "uuid", "500", "302"]
)
def test_a_bad_list_of_nodes_changes_nothing(bad: dict[str, Any], caplog: Any) -> None:
    with LocalCluster(nodes=3) as cluster:
        client = new_client(cluster)
        nodes = install_alternator_transport(client, cluster.seeds, fetch_interval=0.02)
        nodes.refresh()
        for node in cluster.nodes:
            node.answer_localnodes(**bad)
        client.list_tables()
        polled = [node.report.polls for node in cluster.nodes]

        def every_node_was_polled_again() -> bool:
            client.list_tables()
            return all(
                node.report.polls > before + 2
                for node, before in zip(cluster.nodes, polled, strict=True)
            )

        until(every_node_was_polled_again)
        assert {address.host for address in nodes.live} == set(cluster.addresses)
        warnings = [r for r in caplog.records if r.name.startswith("alternator_lb.polling")]
        assert len([r for r in warnings if "last good list stays" in r.message]) == 1
        for node in cluster.nodes:
            node.answer_localnodes(None)
        client.close()


def test_a_list_with_an_address_twice(caplog: Any) -> None:
    with LocalCluster(nodes=3) as cluster:
        first, second, _ = cluster.addresses
        for node in cluster.nodes:
            node.answer_localnodes(body=json.dumps([first, second, first]).encode())
        nodes = AlternatorNodes("http", cluster.port, *cluster.seeds)
        assert sorted(a.host for a in nodes.refresh()) == sorted([first, second])
        nodes.stop()
