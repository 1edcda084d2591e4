"""One node in a process of its own: `python -m alternator_lb.testing.child`.

The parent writes lines of JSON to its standard input, first the settings, then commands, and
reads a line of JSON with the same ``seq`` for each. When the input ends, so does the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

from .certificates import server_context
from .engine import ForwardEngine
from .front import Front, Users
from .host import GRACE_SECONDS
from .listener import Listener
from .loop import quiet
from .messages import Request, Response
from .process import canned_from_json

WHO = "X-Local-Node"


async def serve(settings: dict[str, Any]) -> None:
    """Serve until the input ends; the process ends with it."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(quiet)
    parent = ForwardEngine(settings["parent"])
    engine = ForwardEngine(settings["engine"]) if settings["engine"] else parent

    async def localnodes(request: Request) -> Response:
        asked = Request("GET", request.target, [(WHO, settings["address"])])
        return await parent.call(asked)

    front = Front(engine, localnodes, Users(settings["users"], settings["checked"]))
    front.delay = settings["delay"]
    front.canned = canned_from_json(settings["canned"])
    tls = settings["tls"]
    listener = Listener(front, server_context(*tls) if tls else None)
    front.use(listener)
    listener.open(socket.socket(settings["family"], socket.SOCK_STREAM, fileno=settings["fd"]))

    async def obey(message: dict[str, Any]) -> None:
        command: str = message.get("do", "")
        value: Any = message.get("value")
        if command == "slow":
            front.delay = value
        elif command == "can":
            front.canned = canned_from_json(value)
        elif command == "reset":
            front.reset()
        elif command == "stop":
            await listener.close(GRACE_SECONDS)
        reply = {"seq": message["seq"], "counts": front.counts()}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()

    def watch() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(obey(json.loads(line)), loop)
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    await obey(settings)
    await asyncio.Event().wait()


def main() -> None:
    """Read the settings and serve."""
    # Ctrl-C reaches the whole group: the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = sys.stdin.readline()
    if first:
        asyncio.run(serve(json.loads(first)))


if __name__ == "__main__":
    main()
