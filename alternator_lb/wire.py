"""HTTP/1.1 as DynamoDB speaks it, request and answer as bytes. Pure: no I/O.

Strict about what it accepts: whatever is not plain is None, and urllib3 and http.client deal with
it. A differential test holds both ways against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["MAX_BODY", "MAX_HEAD", "Head", "request_bytes", "response_head"]

#: The largest head and body that the lean path reads; DynamoDB's own limit for an answer is 1 MB.
MAX_HEAD = 32 * 1024
MAX_BODY = 16 * 1024 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_ANSWER = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([!-~](?:[ -~]*[!-~])?)\r\n"
    rb"((?:" + _TOKEN + rb": ?[!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
_NAME = re.compile(_TOKEN.decode())
_TARGET = re.compile(r"/[!-~]*")
_NO_BODY = {204, 304}
_MAX_HEADERS = 100  # http.client's own limit
# Headers that change how a request is framed, or that urllib3 treats in a way of its own.
_SPECIAL = {"transfer-encoding", "expect", "host", "accept-encoding"}

_known_names: dict[str, bytes] = {}  # header names that were found good, and their bytes


class Head(NamedTuple):
    """What stands before the body of an answer."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    length: int
    keep_alive: bool


def request_bytes(
    method: str, target: str, host: bytes, headers: Mapping[str, Any], body: bytes
) -> bytes | None:
    """Return a whole request as urllib3 would send it, or None if it is not plain.

    Args:
        method: only ``POST`` is plain: DynamoDB uses no other.
        target: path and query.
        host: the value of the Host header.
        headers: names, and values as str or bytes; Content-Length and User-Agent among them.
        body: the body.
    """
    if method != "POST" or not _TARGET.fullmatch(target):
        return None
    parts = [b"POST %b HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: identity" % (target.encode(), host)]
    length = agent = None
    try:
        for name, value in headers.items():
            encoded = _known_names.get(name)
            if encoded is None:
                encoded = _learn(name)
                if encoded is None:
                    return None
            if type(value) is not bytes:
                value = value.encode("latin-1")
            if encoded == b"\r\nContent-Length: ":
                length = value
            elif encoded == b"\r\nUser-Agent: ":
                agent = value
            parts.append(encoded)
            parts.append(value)
    except (AttributeError, UnicodeError):
        return None
    if agent is None or length is None or length != b"%d" % len(body):
        return None
    head = b"".join(parts)
    # A line break in a value would let it write headers of its own: http.client refuses it.
    if head.count(b"\n") != len(parts) // 2 + 2 or head.count(b"\r") != len(parts) // 2 + 2:
        return None
    if b"@@@SKIP_HEADER@@@" in head:
        return None
    return b"%b\r\n\r\n%b" % (head, body)


def response_head(data: bytes, end: int) -> Head | None:
    """Return the head of an answer, or None if it is not plain.

    Args:
        data: what was received so far.
        end: where the body begins.
    """
    match = _ANSWER.fullmatch(data, 0, end)
    if match is None:
        return None
    status = int(match[1])
    headers = []
    seen = {}
    for line in match[3].decode("ascii").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        value = value.lstrip(" ")
        headers.append((name, value))
        seen[name.lower()] = value
    length = seen.get("content-length")
    connection = seen.get("connection", "keep-alive").lower()
    if (
        length is None
        or not length.isdigit()
        or len(length) > 9
        or status in _NO_BODY
        or "transfer-encoding" in seen
        or len(seen) != len(headers)
        or len(headers) > _MAX_HEADERS
        or connection not in ("keep-alive", "close")
    ):
        return None
    return Head(status, match[2].decode("ascii"), headers, int(length), connection != "close")


def _learn(name: str) -> bytes | None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _SPECIAL:
        return None
    canonical = {"content-length": "Content-Length", "user-agent": "User-Agent"}
    if name.lower() in canonical and name != canonical[name.lower()]:
        return None
    encoded = b"\r\n%b: " % name.encode()
    if len(_known_names) < 1000:
        _known_names[name] = encoded
    return encoded
