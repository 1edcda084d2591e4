"""A request as it arrived, and a response as it is sent."""

from __future__ import annotations

import email.utils
import http.client
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

log = logging.getLogger("alternator_lb.testing")


@dataclass(slots=True)
class Request:
    """A request as it arrived: header names and values untouched, in their order."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark of the target."""
        return self.target.partition("?")[2]

    def header(self, name: str, default: str = "") -> str:
        """Return the first value of a header; the name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), default)


@dataclass(slots=True)
class Response:
    """What is sent back; Date and Content-Length are added where they miss."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def closes(self) -> bool:
        """Whether it says itself that the connection ends with it."""
        return ("connection", "close") in ((k.lower(), v.lower()) for k, v in self.headers)

    def encode(self, *, close: bool, with_body: bool = True) -> bytes:
        """Return the bytes that go over the wire.

        Not by h11: it refuses what a canned answer may be, such as one whose Content-Length lies.
        """
        told = {name.lower() for name, _ in self.headers}
        added = [("Date", email.utils.formatdate(usegmt=True))]
        if "transfer-encoding" not in told:
            added.append(("Content-Length", str(len(self.body))))
        if close:
            added.append(("Connection", "close"))
        headers = self.headers + [each for each in added if each[0].lower() not in told]
        reason = http.client.responses.get(self.status, "Unknown")
        lines = [f"HTTP/1.1 {self.status} {reason}", *(": ".join(each) for each in headers)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + self.body if with_body else head


def end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out the headers that are about one connection, or about the length of the body."""
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "content-length", "expect"),
}
