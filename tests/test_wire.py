"""The lean path against urllib3's own: the same request goes out, the same comes of any answer."""

from __future__ import annotations

import io
import itertools
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.awsrequest import AWSHTTPConnectionPool, HeadersDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.util.retry import Retry

from alternator_lb import AlternatorNodes, AlternatorPoolManager
from alternator_lb.transport import LeanResponse
from alternator_lb.wire import request_bytes, response_head

HEADERS = {
    "X-Amz-Target": b"DynamoDB_20120810.GetItem",
    "Content-Type": b"application/x-amz-json-1.0",
    "User-Agent": b"Boto3/1 md/Botocore#1",
    "X-Amz-Date": b"20260101T000000Z",
    "Authorization": b"AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=c, Signature=d",
    "Content-Length": "2",
}


class Wire:
    """Takes the place of a socket: hands out an answer in given pieces, keeps what was sent."""

    _idle, _other = socket.socketpair()  # something for poll() to look at

    def __init__(self, pieces: list[bytes], end: str) -> None:
        self.pieces = list(pieces)
        self.end = end
        self.sent = b""
        self.closed = False
        self.timeout: Any = None

    def sendall(self, data: Any, *_: Any) -> None:
        self.sent += bytes(data)

    def recv(self, size: int, *_: Any) -> bytes:
        if not self.pieces:
            if self.end == "silence":
                raise TimeoutError("timed out")
            if self.end == "reset":
                raise ConnectionResetError(104, "Connection reset by peer")
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self))

    def settimeout(self, timeout: Any) -> None:
        self.timeout = timeout

    def gettimeout(self) -> Any:
        return self.timeout

    def fileno(self) -> int:
        return self._idle.fileno()

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class _Raw(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.wire.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def urlopen(pool: Any, headers: Any = None, body: Any = b"{}", **given: Any) -> Any:
    """Ask as botocore does."""
    as_botocore = {
        "retries": Retry(False),
        "assert_same_host": False,
        "preload_content": False,
        "decode_content": False,
        "chunked": False,
    }
    headers = HeadersDict(HEADERS if headers is None else headers)
    return pool.urlopen("POST", "/", body, headers, **{**as_botocore, **given})


Open = Callable[[Wire], Any]


def stock(wire: Wire) -> Any:
    """A pool of botocore's, on the wire."""
    pool = AWSHTTPConnectionPool("dog.scylladb.com", 8000, timeout=5)
    base: Any = pool.ConnectionCls
    pool.ConnectionCls = type("OnWire", (base,), {"_new_conn": lambda self: wire})
    return pool


def ours(wire: Wire, lean: bool = True, **given: Any) -> Any:
    """A virtual pool, on the wire."""
    nodes = AlternatorNodes("http", 8000, "127.0.0.1", lean=lean)
    nodes.stop()
    manager = AlternatorPoolManager(nodes, timeout=5, **given)
    manager.pool_classes_by_scheme = {"http": AWSHTTPConnectionPool}
    pool = manager.connection_from_url("http://dog.scylladb.com:8000/")
    node_pool = pool._rotation.pools[0]
    base = node_pool.ConnectionCls
    node_pool.ConnectionCls = type("OnWire", (base,), {"_new_conn": lambda self: wire})
    weakref.finalize(pool, lambda _: None, manager)
    return pool


def outcome(open_pool: Open, pieces: list[bytes], end: str) -> tuple[Any, ...]:
    """What comes of an answer: status, headers and body, or the exceptions' types."""
    try:
        response = urlopen(open_pool(Wire(pieces, end)))
    except Exception as error:
        inner = error.args[-1] if error.args else None
        return ("failed", type(error), type(inner) if isinstance(inner, Exception) else None)
    head = (response.status, response.reason, sorted(response.headers.items()))
    try:
        return (*head, b"".join(response.stream()))
    except Exception as error:
        return (*head, type(error))


# -- answers ---------------------------------------------------------------------------------------

statuses = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 8
    + [b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 500 Internal Server Error", b"HTTP/1.1 299 x y  z"]
    + [
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1  200 OK",
        b"http/1.1 200 OK",
    ]
    + [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 100 Continue"]
    + [
        b"HTTP/1.1 099 x",
        b"HTTP/1.1 1000 x",
        b"HTTP/1.1 abc x",
        b"HTTP/2 200 OK",
        b"ICY 200 OK",
        b"",
    ]
    + [b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200 O\tK", b"HTTP/1.1 200 OK ", b"\x00HTTP/1.1 200 OK"]
)
names = st.sampled_from(
    [b"Content-Type", b"content-type", b"x-amzn-RequestId", b"x-amz-crc32", b"Date", b"Server"]
    + [b"Connection", b"Keep-Alive", b"Content-Encoding", b"Set-Cookie", b"X!#$%&'*+-.^_`|~"]
    + [b"Bad Name", b"", b"X\xe9", b"X-", b" X", b"X\t", b"Transfer-Encoding", b"Content-Length"]
)
values = st.one_of(
    st.sampled_from(
        [b"application/x-amz-json-1.0", b"keep-alive", b"close", b"Keep-Alive", b"chunked", b"gzip"]
        + [
            b"",
            b" ",
            b"a  b",
            b"\xe9",
            b"a:b",
            b"a\tb",
            b"\ta",
            b"a ",
            b"5",
            b"0",
            b"a\rb",
            b"a\x00b",
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(
        lambda text: text.encode()
    ),
)
separators = st.sampled_from([b": "] * 6 + [b":", b":  ", b" : ", b":\t", b""])
folds = st.sampled_from([b""] * 12 + [b"\r\n folded", b"\r\n\tfolded", b"\nX-Bare: y"])
line_ends = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r\r\n"])


@st.composite
def answers(draw: Any) -> bytes:
    body = draw(
        st.one_of(st.just(b"{}"), st.binary(max_size=40), st.binary(min_size=300, max_size=400))
    )
    lines = [draw(statuses)]
    for _ in range(draw(st.integers(0, 5))):
        lines.append(draw(names) + draw(separators) + draw(values) + draw(folds))
    framing = draw(
        st.sampled_from(["right"] * 10 + ["none", "less", "more", "odd", "chunked", "twice"])
    )
    length = len(body)
    if framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (length, body) if length else b"0\r\n\r\n"
    elif framing != "none":
        said = {"less": max(0, length - 3), "more": length + 3}.get(framing, length)
        text = b"%d" % said
        if framing == "odd":
            text = draw(
                st.sampled_from(
                    [b"+" + text, b"-1", b"0" + text, text + b" ", b"x", b"1e1", b"1_0"]
                )
            )
        where = draw(st.integers(1, len(lines)))
        lines.insert(where, b"Content-Length: " + text)
        if framing == "twice":
            lines.append(b"Content-Length: " + text)
    end = draw(line_ends)
    return end.join(lines) + end + draw(st.sampled_from([b"\r\n"] * 20 + [b"\n", b""])) + body


@st.composite
def pieces(draw: Any) -> list[bytes]:
    answer = draw(answers())
    if draw(st.booleans()):
        answer = answer[: draw(st.integers(0, len(answer)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(answer)), max_size=4)))
    edges = [0, *cuts, len(answer)]
    return [answer[a:b] for a, b in itertools.pairwise(edges) if a < b]


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 2\r\n\r\n{}"


@settings(max_examples=2000, deadline=None)
@given(pieces(), st.sampled_from(["closed", "silence", "reset"]))
@example([GOOD], "silence")
@example([GOOD + GOOD], "silence")
@example([GOOD[:-1]], "closed")
@example([b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD], "silence")
@example([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\n{}"], "silence")
def test_the_same_comes_of_any_answer(given_pieces: list[bytes], end: str) -> None:
    assert outcome(ours, given_pieces, end) == outcome(stock, given_pieces, end)


@pytest.mark.parametrize("end", ["closed", "silence", "reset"])
def test_a_plain_answer_split_and_cut_anywhere(end: str) -> None:
    for cut in range(len(GOOD) + 1):
        parts = [part for part in (GOOD[:cut], GOOD[cut:]) if part]
        assert outcome(ours, parts, end) == outcome(stock, parts, end)
        assert outcome(ours, [GOOD[:cut]][: bool(cut)], end) == outcome(
            stock, [GOOD[:cut]][: bool(cut)], end
        )
    single = [bytes([byte]) for byte in GOOD]
    assert outcome(ours, single, end) == outcome(stock, single, end)


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 100_000, 3_000_000])
def test_bodies_of_many_sizes(size: int) -> None:
    body = b"x" * size
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    parts = [answer[at : at + 60_000] for at in range(0, len(answer), 60_000)]
    assert outcome(ours, parts, "silence") == outcome(stock, parts, "silence")
    assert outcome(ours, parts, "silence")[-1] == body


def test_it_is_the_lean_path_that_is_tested() -> None:
    """Most answers above would prove nothing if they all fell back."""
    response = urlopen(ours(Wire([GOOD], "silence")))
    assert isinstance(response, LeanResponse)
    assert not isinstance(urlopen(ours(Wire([GOOD], "silence"), lean=False)), LeanResponse)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert not isinstance(urlopen(ours(Wire([chunked], "silence"))), LeanResponse)


@pytest.mark.parametrize(
    "given",
    [
        {"retries": Retry(1)},
        {"retries": None},
        {"preload_content": True},
        {"decode_content": True},
        {"chunked": True},
        {"timeout": 1.0},
        {"pool_timeout": 1.0},
        {"body": "{}"},
    ],
    ids=str,
)
def test_what_only_urllib3_can_do_is_left_to_it(given: dict[str, Any]) -> None:
    """None of it is anything that botocore asks for."""
    response = urlopen(ours(Wire([GOOD], "silence")), **given)
    assert not isinstance(response, LeanResponse)
    response.drain_conn()


def test_the_response_is_urllib3s_to_its_users() -> None:
    first = urlopen(ours(Wire([GOOD], "silence")))
    second = urlopen(stock(Wire([GOOD], "silence")))
    if hasattr(second, "version_string"):  # from urllib3 2.2 on
        assert first.version_string == second.version_string
    for name in ("status", "reason", "version", "closed", "data", "headers"):
        assert getattr(first, name) == getattr(second, name), name
    assert urlopen(ours(Wire([GOOD], "silence"))).read(1) == b"{"


# -- requests --------------------------------------------------------------------------------------


def sent(open_pool: Open, headers: Any, body: Any) -> Any:
    wire = Wire([GOOD], "silence")
    try:
        urlopen(open_pool(wire), headers, body).read()
    except Exception as error:
        return type(error)
    return sorted(wire.sent.partition(b"\r\n\r\n")[0].split(b"\r\n")), wire.sent.partition(
        b"\r\n\r\n"
    )[2]


header_values = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20),
    st.sampled_from([b"a\r\nInjected: x", b"a\nb", b"a\rb", "a\r\n b", b"@@@SKIP_HEADER@@@"]),
)
header_names = st.sampled_from(
    ["X-Amz-Target", "x-lower", "Host", "host", "Accept-Encoding", "Expect", "Transfer-Encoding"]
    + ["Bad Name", "X\r\nY", "", "X:", "é", "User-Agent", "user-agent", "Content-Length"]
)


@settings(max_examples=600, deadline=None)
@given(
    st.dictionaries(header_names, header_values, max_size=3),
    st.binary(max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_the_same_request_goes_out(
    more: dict[str, Any], body: bytes, with_length: bool, with_agent: bool
) -> None:
    headers = {**HEADERS, "Content-Length": str(len(body))}
    if not with_length:
        del headers["Content-Length"]
    if not with_agent:
        del headers["User-Agent"]
    headers.update(more)
    if headers.get("Expect") == b"100-continue":
        return
    assert sent(ours, headers, body) == sent(stock, headers, body)


@pytest.mark.parametrize("value", [b"a\r\nInjected: x", b"a\nb", b"a\rb", "a\r\nInjected: x"])
def test_header_injection_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="Invalid header value"):
        urlopen(ours(Wire([GOOD], "silence")), {**HEADERS, "X": value})


def test_one_send_for_headers_and_body() -> None:
    class Counting(Wire):
        sends = 0

        def sendall(self, data: Any, *_: Any) -> None:
            self.sends += 1
            super().sendall(data)

    wire = Counting([GOOD], "silence")
    urlopen(ours(wire)).read()
    assert wire.sends == 1
    assert wire.sent.startswith(b"POST / HTTP/1.1\r\nHost: dog.scylladb.com:8000\r\n")


def test_timeouts_are_the_pools() -> None:
    wire = Wire([GOOD], "silence")
    urlopen(ours(wire)).read()
    assert wire.timeout == 5


@pytest.mark.parametrize("lean", [True, False])
def test_after_a_call_its_connection_waits_for_nobody(lean: bool) -> None:
    pool = ours(Wire([GOOD], "silence"), lean)
    response = urlopen(pool)
    response.drain_conn()
    response.release_conn()
    (conn,) = pool._rotation.pools[0].pool._idle
    assert (conn.busy_since, conn.node_pool) == (0.0, None)


@pytest.mark.parametrize("lean", [True, False])
def test_whatever_interrupts_gives_the_place_in_a_blocking_pool_back(lean: bool) -> None:
    class Interrupted(Wire):
        def recv(self, size: int, *_: Any) -> bytes:
            raise KeyboardInterrupt

    pool = ours(Interrupted([], "silence"), lean, maxsize=1, block=True)
    with pytest.raises(KeyboardInterrupt):
        urlopen(pool)
    assert pool._rotation.pools[0].pool.qsize() == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_whatever_interrupts_closes_the_connection(error: type[BaseException]) -> None:
    class Interrupted(Wire):
        def recv(self, size: int, *_: Any) -> bytes:
            raise error

    wire = Interrupted([], "silence")
    pool = ours(wire)
    with pytest.raises(error):
        urlopen(pool)
    assert wire.closed
    assert pool._rotation.pools[0].pool.qsize() == 0


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(32, "x"), ConnectionResetError(104, "x"), TimeoutError("x"), OSError(5, "x")],
)
def test_errors_in_sending_come_out_as_in_urllib3(error: OSError) -> None:
    class Failing(Wire):
        def sendall(self, data: Any, *_: Any) -> None:
            raise error

    results = []
    for open_pool in (ours, stock):
        try:
            results.append(urlopen(open_pool(Failing([GOOD], "silence"))).status)
        except Exception as caught:
            results.append(type(caught))
    assert results[0] == results[1]


def test_debug_lines_are_urllib3s(caplog: Any) -> None:
    import logging

    lines = []
    for open_pool in (ours, stock):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
            urlopen(open_pool(Wire([GOOD], "silence"))).read()
        lines.append([r.message for r in caplog.records if "POST" in r.message])
    assert lines[0] == lines[1] == [
        'http://dog.scylladb.com:8000 "POST / HTTP/1.1" 200 2'
    ]  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_none(data: bytes) -> None:
    response_head(data, len(data))


def test_what_is_not_plain_is_left_to_urllib3() -> None:
    plain = {"User-Agent": b"x", "Content-Length": "2"}
    assert request_bytes("POST", "/", b"h", plain, b"{}") is not None
    for method, target, headers, body in [
        ("post", "/", plain, b"{}"),
        ("HEAD", "/", plain, b"{}"),
        ("GET", "/", plain, b"{}"),
        ("POST", "/ x", plain, b"{}"),
        ("POST", "http://x/", plain, b"{}"),
        ("POST", "/", plain, b"{} "),
        ("POST", "/", {**plain, "Host": b"x"}, b"{}"),
        ("POST", "/", {**plain, "Expect": b"100-continue"}, b"{}"),
        ("POST", "/", {**plain, "X": 5}, b"{}"),
        ("POST", "/", {**plain, "X": "€"}, b"{}"),
        ("POST", "/", {"Content-Length": "2"}, b"{}"),
        ("POST", "/", {**plain, "User-Agent": b"@@@SKIP_HEADER@@@"}, b"{}"),
    ]:
        assert request_bytes(method, target, b"h", headers, body) is None


@pytest.mark.parametrize(
    "more",
    [
        ["Transfer-Encoding: chunked"],
        ["Connection: upgrade"],
        ["content-length: 2"],
        ["X: y", "x: z"],
        [f"X-{n}: y" for n in range(100)],
    ],
    ids=lambda more: more[0],
)
def test_an_answer_that_is_not_plain_is_left_to_urllib3(more: list[str]) -> None:
    def head(lines: list[str]) -> Any:
        data = ("\r\n".join(lines) + "\r\n\r\n").encode()
        return response_head(data, len(data))

    plain = ["HTTP/1.1 200 OK", "Content-Length: 2"]
    assert head(plain) is not None
    assert head([*plain, *more]) is None


@pytest.mark.parametrize("status", [200, 299, 400, 500, 599])
def test_any_final_status_is_plain(status: int) -> None:
    data = b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\n" % status
    head = response_head(data, len(data))
    assert head is not None
    assert head.status == status


def test_a_hundred_headers_are_plain() -> None:
    lines = b"".join(b"X-%d: y\r\n" % n for n in range(99))
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\n" % lines
    assert response_head(data, len(data)) is not None


@pytest.fixture(autouse=True, scope="module")
def _close() -> Iterator[None]:
    yield
    Wire._idle.close()
    Wire._other.close()
