"""A node in a process of its own, that can be killed and frozen for real: the parent's side."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any, cast

from .host import GRACE_SECONDS
from .messages import Response, log

_START_SECONDS = 30.0
_REPLY_SECONDS = 3.0
_GAUGES = ("open_connections", "in_flight")


class NodeProcess:
    """Starts `child` with a bound socket, and talks to it in lines of JSON over its pipes.

    `counts` can be asked from any thread at any time; it never waits for a frozen node.
    """

    def __init__(self) -> None:
        """Start nothing; `settings`, what the child has to know, are set before `begin`."""
        self.settings: dict[str, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._asked = 0
        self._unread = b""
        self._frozen = False
        self._stale = False
        self._delay = 0.0
        self._canned: dict[str, Any] | None = None
        self._before: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}

    def begin(self, bound: socket.socket) -> None:
        """Start the process with its socket; returns before it is up."""
        with self._lock, bound:
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[bound.fileno()],
                env={**os.environ, "PYTHONPATH": _import_path()},
            )
            self._frozen = self._stale = False
            self._unread = b""
            self._latest = {}
            self._send(
                {
                    **self.settings,
                    "fd": bound.fileno(),
                    "family": bound.family,
                    "delay": self._delay,
                    "canned": self._canned,
                    "seq": self._next(),
                }
            )

    def ready(self) -> None:
        """Wait for the process to listen.

        Raises:
            RuntimeError: it ended instead, or did not come up in time.
        """
        with self._lock:
            if self._receive(_START_SECONDS) is None:
                self._end()
                raise RuntimeError("the process of a node did not come up: see its error output")

    def stop(self) -> None:
        """Have the node close gracefully, then end its process."""
        with self._lock:
            if not self._frozen:
                self._ask("stop", GRACE_SECONDS + _REPLY_SECONDS)
            self._end()

    def kill(self) -> None:
        """Ask for the counts a last time, then SIGKILL."""
        with self._lock:
            if not self._frozen:
                self._refresh()
            self._end()
            self._stale = True

    def freeze(self) -> None:
        """Ask for the counts a last time, then SIGSTOP."""
        with self._lock:
            self._refresh()
            self._running.send_signal(signal.SIGSTOP)
            self._frozen = self._stale = True

    def thaw(self) -> None:
        """SIGCONT."""
        with self._lock:
            self._running.send_signal(signal.SIGCONT)
            self._frozen = self._stale = False

    def slow(self, seconds: float) -> None:
        """Delay every answer; a frozen node learns of it when it thaws."""
        with self._lock:
            self._delay = seconds
            self._tell("slow", seconds)

    def can(self, response: Response | None) -> None:
        """Set or take away the canned answer."""
        with self._lock:
            self._canned = None if response is None else canned_to_json(response)
            self._tell("can", self._canned)

    def counts(self) -> tuple[dict[str, Any], bool]:
        """Return the counts of now, or the last known of a node that cannot be asked."""
        with self._lock:
            if self._child is not None and not self._frozen:
                self._refresh()
            return merged(self._before, self._latest), self._stale

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self._before, self._latest = {}, {}
            self._tell("reset", None)

    @property
    def pid(self) -> int | None:
        """The id of the process, None while there is none."""
        return None if self._child is None else self._child.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._child is not None
        return self._child

    def _refresh(self) -> None:
        self._stale = not self._ask("counts", _REPLY_SECONDS)

    def _ask(self, command: str, seconds: float) -> bool:
        sent = self._send({"do": command, "seq": self._next()})
        reply = self._receive(seconds) if sent else None
        if reply is None:
            return False
        self._latest = reply["counts"]
        return True

    def _tell(self, command: str, value: Any) -> None:
        if self._child is None:
            return
        # Not read by a frozen node; the commands of many tests fit into a pipe.
        if self._send({"do": command, "value": value, "seq": self._next()}) and not self._frozen:
            self._receive(_REPLY_SECONDS)

    def _next(self) -> int:
        self._asked += 1
        return self._asked

    def _send(self, message: dict[str, Any]) -> bool:
        pipe = cast(IO[bytes], self._running.stdin)
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except OSError as error:
            log.debug("a node's process is gone: %s", error)
            return False
        return True

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the reply to the latest message, passing over those to earlier ones."""
        out = cast(IO[bytes], self._running.stdout).fileno()
        while True:  # every pass reads something or returns
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                reply: dict[str, Any] = json.loads(line)
                if reply["seq"] == self._asked:
                    return reply
                continue
            if not select.select([out], [], [], seconds)[0]:
                return None
            read = os.read(out, 65536)
            if not read:
                return None
            self._unread += read

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            try:
                cast(IO[bytes], pipe).close()
            except OSError:
                log.debug("a node's process ended before it read everything")
        self._before = merged(self._before, {**self._latest, **dict.fromkeys(_GAUGES, 0)})
        self._latest = {}
        self._frozen = False


def canned_to_json(response: Response) -> dict[str, Any]:
    """Return a response in a form that goes through JSON."""
    return {
        "status": response.status,
        "body": response.body.decode("latin-1"),
        "headers": response.headers,
    }


def canned_from_json(value: dict[str, Any] | None) -> Response | None:
    """Return the response that `canned_to_json` was given."""
    if value is None:
        return None
    return Response(value["status"], value["body"].encode("latin-1"), value["headers"])


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Add up the counts of a process and of those that ran before it."""
    both = dict(now)
    for name, value in before.items():
        if isinstance(value, dict):
            both[name] = dict(Counter(value) + Counter(now.get(name, {})))
        else:
            both[name] = value + now.get(name, 0)
    return both


def _import_path() -> str:
    # The child finds this package also where it is not installed.
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
