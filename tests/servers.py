"""A server that plays a script byte by byte: for answers that no real server gives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

Script = Callable[[socket.socket, bytes], None]


class ScriptedServer:
    """Listens on loopback; for every request it reads whole, it calls the script.

    Args:
        script: gets the connection and the request's bytes; when it returns, the next request of
            the connection is read, when it raises OSError or closes the socket, that was the last.
        address: the loopback address to listen on.
        port: 0 finds one.
    """

    def __init__(self, script: Script, address: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.accepted = 0
        self._listener = socket.create_server((address, port), backlog=128)
        self.address, self.port = self._listener.getsockname()[:2]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(conn)
            thread = threading.Thread(target=self._serve, args=(conn,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError), conn:
            while True:
                request = _read_request(conn)
                if not request:
                    break
                self.requests.append(request)
                self.script(conn, request)
        self._open.discard(conn)


def _read_request(conn: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = conn.recv(65536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        part = conn.recv(65536)
        if not part:
            return b""
        body += part
    return head + b"\r\n\r\n" + body


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return the bytes of a plain answer with Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
