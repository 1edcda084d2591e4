"""HTTP/1.1 on the wire: what a node makes of odd requests, broken ones, and forks."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import cast

import pytest

from alternator_lb.testing import LocalCluster
from alternator_lb.testing.host import InProcess
from alternator_lb.testing.messages import Request, Response

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
TARGET = b"X-Amz-Target: DynamoDB_20120810.ListTables\r\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Give the tests a node that takes unsigned calls."""
    with LocalCluster(nodes=1, authorization=False) as running:
        yield running


@pytest.fixture
def wire(cluster: LocalCluster) -> Iterator[socket.socket]:
    """Give the test a bare connection to the node."""
    with socket.create_connection((cluster.addresses[0], cluster.port), 30) as connection:
        yield connection


def answers(wire: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """Read so many answers off the wire."""
    found = []
    with wire.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            found.append((status, file.read(length)))
    return found


def test_a_body_in_chunks(wire: socket.socket) -> None:
    wire.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + TARGET)
    wire.sendall(b"\r\n1\r\n{\r\n")
    wire.sendall(b"1;why=not\r\n}\r\n0\r\n\r\n")
    assert answers(wire) == [(200, b'{"TableNames": []}')]


def test_requests_in_a_row_without_waiting(wire: socket.socket, cluster: LocalCluster) -> None:
    one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" + TARGET + b"\r\n{}"
    cluster.reset_counts()
    wire.sendall(one * 3)
    assert [status for status, _ in answers(wire, 3)] == [200] * 3
    report = cluster.nodes[0].report
    assert (report.calls, report.connections) == (3, 1)


def test_a_request_byte_by_byte(wire: socket.socket) -> None:
    for byte in b"GET / HTTP/1.1\r\nHost: me\r\n\r\n":
        wire.sendall(bytes([byte]))
    assert answers(wire) == [(200, b"healthy: me")]


def test_expect_continue(wire: socket.socket) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
    wire.sendall(head + TARGET + b"\r\n")
    assert wire.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.sendall(b"{}")
    assert answers(wire)[0][0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_who_asks_for_one_answer_gets_one(wire: socket.socket, request_: bytes) -> None:
    wire.sendall(request_)
    assert answers(wire) == [(200, b"healthy: x")]
    assert wire.recv(1) == b""


def test_head_has_no_body(wire: socket.socket) -> None:
    wire.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = b"".join(iter(lambda: wire.recv(999), b""))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 431),
        (POST + b"Content-Length: x\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 16777217\r\n\r\n", 413),
        (POST + b"Content-Length: 16777217\r\nExpect: 100-continue\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1000001\r\n" + b"x" * 16777217, 413),
    ],
)
def test_what_is_broken_is_refused(wire: socket.socket, request_: bytes, status: int) -> None:
    wire.sendall(request_)
    assert answers(wire)[0][0] == status
    assert wire.recv(1) == b""


def test_the_largest_body(wire: socket.socket) -> None:
    wire.sendall(
        POST + b"Content-Length: 16777216\r\n" + TARGET + b"\r\n{" + b" " * 16777214 + b"}"
    )
    assert answers(wire) == [(200, b'{"TableNames": []}')]


def test_https_at_the_door_of_http_is_refused_at_once(wire: socket.socket) -> None:
    wire.settimeout(5)
    with pytest.raises(ssl.SSLError):
        ssl._create_unverified_context().wrap_socket(wire)


def test_headers_stay_as_they_came(wire: socket.socket, cluster: LocalCluster) -> None:
    seen = []
    front = cast(InProcess, cluster.nodes[0]._host)._front

    async def respond(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "respond", respond)
        wire.sendall(b"GET /a%20b?c HTTP/1.1\r\nX-b:  1  2 \r\nhOsT: Me:80\r\nx-B: \xff\r\n\r\n")
        answers(wire)
    assert seen == [
        Request("GET", "/a%20b?c", [("X-b", "1  2"), ("hOsT", "Me:80"), ("x-B", "\xff")])
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "many"},
        {"Content-Length": "1"},
        {"Content-Length": "9"},
        {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_a_canned_answer_may_break_the_rules(
    wire: socket.socket, cluster: LocalCluster, headers: dict[str, str]
) -> None:
    node = cluster.nodes[0]
    node.answer_localnodes(200, b"body", headers)
    wire.sendall(b"GET /localnodes HTTP/1.1\r\nHost: x\r\n\r\n")
    wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = b"".join(iter(lambda: wire.recv(999), b""))
    node.answer_localnodes(None)
    ((name, value),) = headers.items()
    assert f"{name}: {value}\r\n".encode() in received
    assert b"\r\n\r\nbodyHTTP/1.1 200 OK\r\n" in received


def test_a_client_that_leaves_in_the_middle(cluster: LocalCluster) -> None:
    where = (cluster.addresses[0], cluster.port)
    for part in (b"", b"POST / HT", POST + b"Content-Length: 9\r\n\r\n{}"):
        with socket.create_connection(where) as leaving:
            leaving.sendall(part)
    with socket.create_connection(where, 30) as staying:
        staying.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answers(staying) == [(200, b"healthy: x")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_takes_no_socket_along() -> None:
    with LocalCluster(nodes=1) as cluster:
        node = cluster.nodes[0]
        idle = socket.create_connection((node.address, node.port), 30)
        with idle:
            idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answers(idle)
            told, tell = os.pipe()
            hold, let_go = os.pipe()
            child = os.fork()
            if not child:
                _in_the_child(cluster, tell, hold, let_go)
            try:
                assert os.read(told, 1) == b"y"
                node.stop()
                # A copy in the child would keep both the connection and the port alive.
                assert idle.recv(1) == b""
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((node.address, node.port))
                node.start()
            finally:
                os.write(let_go, b"x")
                os.waitpid(child, 0)
                for end in (told, tell, hold, let_go):
                    os.close(end)


def _in_the_child(cluster: LocalCluster, tell: int, hold: int, let_go: int) -> None:
    said = b"n"
    try:
        os.close(let_go)
        cluster.stop()
        with LocalCluster(nodes=1) as another:
            said = b"y" if another.addresses != cluster.addresses else b"n"
        with pytest.raises(RuntimeError, match="process that started it"):
            cluster.nodes[0].freeze()
    except BaseException as error:
        said = b"n"
        print(repr(error), file=sys.stderr)
    finally:
        os.write(tell, said)
        os.read(hold, 1)
        os._exit(0)
