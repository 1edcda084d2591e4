"""What one node does with a request, and what it counts: the same in a thread and a process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .engine import Engine, error_response
from .listener import Handler, Listener
from .messages import Request, Response
from .signatures import Rejected, check_signature

if TYPE_CHECKING:
    from .connection import Connection

LocalNodes = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Users:
    """Who may call: access key -> secret key, and whether that is checked at all."""

    secrets: Mapping[str, str]
    checked: bool


class Front(Handler):
    """Answers the requests to one node and counts them. All of it runs on the loop's thread."""

    def __init__(self, engine: Engine, localnodes: LocalNodes, users: Users) -> None:
        """Know the engine, who knows the nodes, and who may call."""
        self.delay = 0.0
        self.canned: Response | None = None
        self.listener: Listener | None = None
        self._engine = engine
        self._localnodes = localnodes
        self._users = users
        self._round = 0
        self._in_flight = 0
        self.reset()

    def use(self, listener: Listener) -> None:
        """Answer what comes through this listener from now on, and go on counting."""
        if self.listener is not None:
            self._accepted_before -= self.listener.accepted
        self.listener = listener

    def reset(self) -> None:
        """Count from zero."""
        self._round += 1
        self._counts: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._accepted_before = self.listener.accepted if self.listener else 0

    def counts(self) -> dict[str, Any]:
        """Return what was counted, as JSON can carry it."""
        listener = self.listener
        return {
            **{name: self._counts[name] for name in COUNTED},
            "in_flight": self._in_flight,
            "accepted": listener.accepted - self._accepted_before if listener else 0,
            "open_connections": len(listener.connections) if listener else 0,
            "hosts": dict(self._hosts),
            "errors": dict(self._errors),
        }

    async def respond(self, request: Request) -> Response:
        """Answer as a node of Alternator would, as late as it was told to."""
        response = await self._answer(request)
        if self.delay:
            await asyncio.sleep(self.delay)
        return response

    def received(self, connection: Connection, request: Request) -> None:
        """Count a request that arrived in full."""
        if request.method == "POST":
            self._counts["received"] += 1
            self._in_flight += 1

    def finished(self, connection: Connection, request: Request, *, answered: bool) -> None:
        """Count a request that is over, before its answer is written."""
        if request.method == "POST":
            self._in_flight -= 1
        if not answered:
            return
        if request.method == "POST":
            self._counts["calls"] += 1
            self._hosts[request.header("host")] += 1
        elif request.path == "/localnodes":
            self._counts["polls"] += 1
        self._count_connection(connection, "call" if request.method == "POST" else "poll")

    def _count_connection(self, connection: Connection, kind: str) -> None:
        before = connection.kind if connection.kind.endswith(f" {self._round}") else ""
        if before.startswith(("call", kind)):
            return
        connection.kind = f"{kind} {self._round}"
        if kind == "call":
            self._counts["connections"] += 1
            if before:
                self._counts["poll_connections"] -= 1
        else:
            self._counts["poll_connections"] += 1

    async def _answer(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._call(request)
        if request.method in ("GET", "HEAD"):
            if request.path == "/localnodes":
                return self.canned or await self._localnodes(request)
            if request.path == "/":
                body = f"healthy: {request.header('host')}".encode()
                return Response(200, body, [("Content-Type", "text/plain")])
        return Response(404, b"not found", [("Content-Type", "text/plain")])

    async def _call(self, request: Request) -> Response:
        if self._users.checked:
            try:
                check_signature(request, self._users.secrets)
            except Rejected as no:
                self._errors[no.code] += 1
                return error_response(no.code, no.message)
        if request.header("x-amz-target") == "DynamoDB_20120810.DescribeEndpoints":
            # The endpoint of a node is the name that the client used, as with Alternator.
            endpoint = {"Address": request.header("host"), "CachePeriodInMinutes": 1440}
            body = json.dumps({"Endpoints": [endpoint]}).encode()
            return Response(200, body, [("Content-Type", "application/x-amz-json-1.0")])
        return await self._engine.call(request)


COUNTED = ("calls", "received", "polls", "connections", "poll_connections")
