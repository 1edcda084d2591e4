"""The connection to one node, and the pool that keeps the connections to one node."""

from __future__ import annotations

import gc
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

from alternator_lb import connection as connection_module
from alternator_lb.connection import IdleConnections, Replay, node_pool_class, reason_of
from alternator_lb.testing import LocalCluster

from .servers import ScriptedServer, answer


class Conn:
    closed = False

    def dropped(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def test_idle_connections_are_last_in_first_out_and_bounded() -> None:
    idle = IdleConnections(2)
    idle.put(None)
    assert idle.qsize() == 0
    for item in ("first", "second"):
        idle.put(item)
    with pytest.raises(queue.Full):
        idle.put("third")
    assert [idle.get(), idle.get()] == ["second", "first"]
    with pytest.raises(queue.Empty):
        idle.get()


def test_a_pool_keeps_what_it_may_and_closes_the_rest() -> None:
    pool = node_pool_class(HTTPConnectionPool)("127.0.0.1", 1, maxsize=1)
    first, second, third = Conn(), Conn(), Conn()
    pool.keep(first)
    pool.keep(second)
    assert (first.closed, second.closed) == (False, True)
    pool.close()
    assert first.closed
    pool.keep(third)
    assert third.closed


def test_the_connection_that_was_used_last_is_used_next() -> None:
    pool = node_pool_class(HTTPConnectionPool)("127.0.0.1", 1, maxsize=2)
    first, second = Conn(), Conn()
    pool.keep(first)
    pool.keep(second)
    assert [pool.idle_connection(), pool.idle_connection()] == [second, first]
    pool.close()


def test_what_is_kept_while_the_pool_closes_is_closed() -> None:
    class Closing(list[Any]):
        def append(self, conn: Any) -> None:
            pool.close()
            super().append(conn)

    pool = node_pool_class(HTTPConnectionPool)("127.0.0.1", 1, maxsize=1)
    pool.pool._idle = Closing()
    conn = Conn()
    pool.keep(conn)
    assert conn.closed


@pytest.mark.parametrize("block", [False, True])
def test_a_child_process_has_every_place_and_no_connection_of_its_parent(block: bool) -> None:
    """A queue that blocks is not touched: a thread may hold its lock that the child has not."""
    pool = node_pool_class(HTTPConnectionPool)("127.0.0.1", 1, maxsize=2, block=block)
    inherited, conn = pool.pool, Conn()
    if block:
        inherited.get()
    inherited.put(conn)
    pool.forget_inherited()
    assert pool.pool is not inherited
    assert pool.pool.qsize() == (2 if block else 0)
    assert conn.closed is not block
    pool.close()


def test_a_pool_that_was_closed_has_nothing_to_forget() -> None:
    pool = node_pool_class(HTTPConnectionPool)("127.0.0.1", 1)
    pool.close()
    pool.forget_inherited()
    assert pool.pool is None


@pytest.mark.parametrize("ends", ["close", "del"])
def test_open_connections_can_be_found_until_they_are_closed_or_forgotten(ends: str) -> None:
    """One that nobody gave back, as when a signal handler raised, is not kept alive."""
    with ScriptedServer(lambda conn, request: None) as server:
        pool = node_pool_class(HTTPConnectionPool)(server.address, server.port)
        pool.open_ones = found = set()
        conn = pool._new_conn()
        conn.close()  # it never connected
        conn.connect()
        assert [ref() for ref in found] == [conn]
        if ends == "close":
            conn.close()
        else:
            conn.sock.close()  # the warning of what is left to the garbage collector
            del conn
            gc.collect()
        assert found == set()
        pool.close()


def test_the_pool_classes_are_made_once() -> None:
    assert node_pool_class(HTTPConnectionPool) is node_pool_class(HTTPConnectionPool)


@pytest.mark.parametrize("replayed", [False, True], ids=["socket", "replay"])
def test_a_call_that_waits_can_be_cut(replayed: bool) -> None:
    """Also when urllib3's own code has taken over, in the middle of an answer."""
    with ScriptedServer(lambda conn, request: None) as server:
        pool = node_pool_class(HTTPConnectionPool)(server.address, server.port)
        conn = pool._new_conn()
        conn.connect()
        conn.sock.settimeout(30)
        real = conn.sock
        if replayed:
            conn.sock = Replay(real, b"")
        ended = []
        reader = threading.Thread(target=lambda: ended.append(real.recv(1)))
        reader.start()
        conn.cut()
        reader.join(timeout=20)
        assert ended == [b""]
        conn.close()
        conn.cut()  # a connection that is closed has nothing to cut
        pool.close()


def test_cutting_leaves_the_tls_to_who_reads() -> None:
    with LocalCluster(nodes=1, tls=True) as cluster:
        pool = node_pool_class(HTTPSConnectionPool)(
            cluster.addresses[0], cluster.port, cert_reqs="CERT_NONE"
        )
        conn = pool._new_conn()
        conn.connect()
        conn.cut()
        assert conn.sock.version() is not None  # SSLSocket's own shutdown() ends the TLS as well
        conn.close()
        pool.close()


REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def connected(script: Any) -> Iterator[Any]:
    """A connection to a scripted node."""
    with ScriptedServer(script) as server:
        pool = node_pool_class(HTTPConnectionPool)(server.address, server.port)
        conn = pool._new_conn()
        conn.connect()
        try:
            yield conn
        finally:
            conn.close()
            pool.close()


@pytest.mark.parametrize("waits_by", ["poll", "socket"])
@pytest.mark.parametrize("received", [b"", answer(b"{}")[:20], answer(b"{}")[:-1]])
def test_the_read_timeout_counts_in_every_part_of_an_answer(waits_by: str, received: bytes) -> None:
    with connected(lambda sock, _: sock.sendall(received)) as conn:
        conn._polls &= waits_by == "poll"
        assert conn.exchange(REQUEST, (30.0, 0.05)) is None
        with conn.sock.makefile("rb") as reader:
            assert reader.read(len(received)) == received
            with pytest.raises(TimeoutError, match="timed out"):
                reader.read(1)


def test_the_connect_timeout_counts_for_sending() -> None:
    """The node reads nothing, and what is sent is larger than the buffers of both sides."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = node_pool_class(HTTPConnectionPool)(*listener.getsockname())
        conn = pool._new_conn()
        conn.connect()
        assert conn.exchange(bytes(32_000_000), (0.05, 30.0)) is None
        with pytest.raises(TimeoutError, match="timed out"):
            conn.sock.sendall(b"")
        conn.close()
        pool.close()


@pytest.mark.parametrize("timeouts", [(30.0, 30.0), (30.0, None), (None, None)])
def test_a_request_larger_than_the_send_buffer_arrives_whole(timeouts: Any) -> None:
    body = bytes(8_000_000)
    received = []

    def script(sock: socket.socket, request: bytes) -> None:
        received.append(request)
        sock.sendall(answer(body))

    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with connected(script) as conn:
        for _ in range(2):
            head, content = conn.exchange(request, timeouts)
            assert (head.status, content) == (200, body)
    assert received == [request, request]


def test_sockets_with_a_recv_of_their_own_wait_for_themselves() -> None:
    """Those of TLS and of gevent do their own waiting."""

    class Own(socket.socket):
        def recv(self, *args: Any) -> bytes:
            return super().recv(*args)

    with connected(lambda sock, _: sock.sendall(answer(b"{}"))) as conn:
        address = conn.sock.getpeername()
        conn.close()

        def connect() -> socket.socket:
            sock = Own()
            sock.connect(address)
            return sock

        conn._new_conn = connect
        conn.connect()
        assert conn.exchange(REQUEST, (5.0, 6.0)) is not None
        assert conn.sock.gettimeout() == 6.0


def test_a_connection_is_closed_where_the_answer_says_so() -> None:
    closing = answer(b"{}", "200 OK", "Connection: Close")
    with connected(lambda sock, _: sock.sendall(closing)) as conn:
        head, body = conn.exchange(REQUEST, (5.0, 5.0))
        assert (head.status, head.keep_alive, body) == (200, False, b"{}")
        assert conn.sock is None
        assert conn.dropped()


def test_a_connection_that_said_too_much_is_closed() -> None:
    with connected(lambda sock, _: sock.sendall(answer(b"{}") + b"more")) as conn:
        assert conn.exchange(REQUEST, (5.0, 5.0))[1] == b"{}"
        assert conn.sock is None


def test_a_body_that_is_too_large_is_left_to_urllib3(monkeypatch: Any) -> None:
    monkeypatch.setattr(connection_module, "MAX_BODY", 1)
    with connected(lambda sock, _: sock.sendall(answer(b"{}"))) as conn:
        assert conn.exchange(REQUEST, (5.0, 5.0)) is None
        with conn.sock.makefile("rb") as reader:
            assert reader.read(len(answer(b"{}"))) == answer(b"{}")


def test_a_connection_that_connects_again_waits_on_its_new_socket() -> None:
    closing = answer(b"{}", "200 OK", "Connection: close")
    answers = iter([closing, b""])

    with connected(lambda sock, _: sock.sendall(next(answers))) as conn:
        assert conn.exchange(REQUEST, (None, 5.0)) is not None
        with socket.socket():  # has the number that the old socket had
            conn.connect()
        assert conn.exchange(REQUEST, (None, 0.05)) is None
        with conn.sock.makefile("rb") as reader, pytest.raises(TimeoutError, match="timed out"):
            reader.read(1)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="there are no such signals here")
@pytest.mark.parametrize("waits_by", ["poll", "socket"])
def test_the_read_timeout_comes_although_signals_keep_arriving(waits_by: str) -> None:
    """Each interrupts the wait; what has passed of it must not be forgotten."""
    over, main = threading.Event(), threading.get_ident()

    def signals() -> None:
        for _ in range(1000):
            if over.wait(0.01):
                break
            signal.pthread_kill(main, signal.SIGUSR1)
        over.set()

    def script(sock: socket.socket, _: bytes) -> None:
        over.wait(30)
        sock.sendall(answer(b"{}"))

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    thread = threading.Thread(target=signals)
    thread.start()
    try:
        with connected(script) as conn:
            conn._polls &= waits_by == "poll"
            assert conn.exchange(REQUEST, (5.0, 0.2)) is None
            over.set()
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_replay_gives_what_was_received_and_then_the_rest() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b" and the rest\n")
        replay = Replay(ours, b"received")
        replay.sendall(b"was sent already")
        with replay.makefile("rb") as reader:
            assert reader.readline() == b"received and the rest\n"
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_a_replay_ends_as_the_attempt_did() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(BrokenPipeError):
            Replay(ours, b"", send_error=BrokenPipeError()).sendall(b"x")
        with Replay(ours, b"x", eof=True).makefile("rb") as reader:
            assert reader.read() == b"x"
        with (
            Replay(ours, b"", read_error=TimeoutError("t")).makefile("rb") as reader,
            pytest.raises(TimeoutError),
        ):
            reader.read()


def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    with ScriptedServer(lambda conn, _: conn.sendall(answer(b"x"))) as server:
        pool = node_pool_class(HTTPConnectionPool)(server.address, server.port, maxsize=2)
        assert pool.idle_connection() is None
        pool.request("GET", "/")
        conn = pool.idle_connection()
        assert conn is not None
        pool.keep(conn)
        real: Any = conn.sock
        real.shutdown(socket.SHUT_RDWR)
        assert pool.idle_connection() is None
        pool.close()


def test_reasons_are_the_innermost_words() -> None:
    error = ValueError("<urllib3.connection.HTTPConnection object>: failed")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert reason_of(error) == "Connection refused"
    assert reason_of(TimeoutError("x")) == "timed out"
    assert reason_of(ValueError()) == "ValueError"
