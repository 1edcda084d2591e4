"""One connection of a client: h11 reads its requests off the wire, a handler answers them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import cast

import h11

from .listener import Handler, Listener
from .messages import Request, Response, log

MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024  # Alternator's own limit


class Connection(asyncio.Protocol):
    """One connection of a client: reads a request, has it answered, reads the next."""

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        """Belong to a listener."""
        self.kind = ""  # for the handler to remember what this connection was used for
        self._listener = listener
        self.socket = sock
        self._transport: asyncio.Transport
        self._http = h11.Connection(h11.SERVER, MAX_HEAD)
        self._head: Request
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast(asyncio.Transport, transport)
        self._listener.joined(self)
        if self._listener.frozen:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Keep what arrived, and answer if that makes a request."""
        self._http.receive_data(data)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and the answer on its way."""
        self._listener.left(self)
        self._transport.close()  # Python 3.10 warns of TLS transports that their peer closed
        if self._task is not None:
            self._task.cancel()

    def finish(self) -> None:
        """Close now if idle, else after the answer on its way."""
        self._last = True
        if self._task is None:
            self._close()

    def abort(self) -> None:
        """Close without flushing anything."""
        self._transport.abort()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if not self._transport.is_closing():
            with _gone_below():
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, beginning with what arrived already."""
        if not self._transport.is_closing():
            with _gone_below():
                self._transport.resume_reading()
            self._advance()

    def _close(self) -> None:
        self._transport.close()
        if self._transport.get_extra_info("sslcontext") is not None:
            self._hang_up(100)

    def _hang_up(self, patience: int) -> None:
        # TLS would wait for the peer's goodbye, which a pooled connection never sends.
        if self in self._listener.connections:
            unsent = 0
            with _gone_below():
                unsent = self._transport.get_write_buffer_size()
            if patience and unsent:
                asyncio.get_running_loop().call_later(0.05, self._hang_up, patience - 1)
            else:
                asyncio.get_running_loop().call_soon(self._transport.abort)

    def _advance(self) -> None:
        if self._listener.frozen or self._transport.is_closing():
            return
        if self._task is not None or self._last:
            return
        try:
            request = self._take()
        except h11.RemoteProtocolError as error:
            self._last = True
            self._transport.write(Response(error.error_status_hint).encode(close=True))
            self._close()
            return
        if request is not None:
            self._listener.handler.received(self, request)
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        handler, transport = self._listener.handler, self._transport
        answered = False
        try:
            response = await _respond(handler, request)
            await self._listener.until_thawed()
            if not transport.is_closing():
                answered = True
                handler.finished(self, request, answered=True)
                if self._http.their_state is h11.MUST_CLOSE or response.closes:
                    self._last = True
                with_body = request.method != "HEAD"
                transport.write(response.encode(close=self._last, with_body=with_body))
        finally:
            self._task = None
            if not answered:
                handler.finished(self, request, answered=False)
                transport.abort()
        if self._last:
            self._close()
        else:
            self._next()
            self._advance()

    def _take(self) -> Request | None:
        """Return the next request if all of it is there."""
        while True:  # every pass takes something off h11's buffer or returns
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._head = _head(event)
                _check_size(int(self._head.header("content-length", "0")))
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(
                        status_code=100, headers=[], reason="Continue"
                    )
                    self._transport.write(self._http.send(go_on))
            elif isinstance(event, h11.Data):
                self._body += event.data
                _check_size(len(self._body))
            elif isinstance(event, h11.EndOfMessage):
                self._head.body = bytes(self._body)
                return self._head
            else:
                return None

    def _next(self) -> None:
        """Begin anew with what follows the request: h11 does not know the answer that was sent."""
        rest, _ = self._http.trailing_data
        self._http = h11.Connection(h11.SERVER, MAX_HEAD)
        self._body.clear()
        if rest:
            self._http.receive_data(rest)


def _head(event: h11.Request) -> Request:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in event.headers.raw_items()
    ]
    return Request(event.method.decode("ascii"), event.target.decode("ascii"), headers)


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)


def _gone_below() -> contextlib.suppress:
    # In Python 3.10 a TLS transport whose socket is closed falls over a None for a moment.
    return contextlib.suppress(AttributeError)


async def _respond(handler: Handler, request: Request) -> Response:
    try:
        return await handler.respond(request)
    except Exception:
        log.exception("no answer to %s %s", request.method, request.target)
        return Response(500)
