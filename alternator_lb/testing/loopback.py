"""Find loopback addresses that nobody uses, and one port that is free on all of them."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Sequence

from ..errors import AlternatorError

Address = Callable[[int], str]  # the number of a node, from 0 -> its address

# Below the ports that systems hand out to clients, so that a stopped node's port stays free.
_PORTS = range(10_000, 32_000)
_ATTEMPTS = 100
_LAST_HOST = 254


class LoopbackError(AlternatorError, OSError):
    """The loopback addresses or the port that a cluster needs cannot be had; the text says why."""


def choose_network(nodes: int, *, ipv6: bool = False) -> Address:
    """Choose where a cluster lives: a function from the number of a node to its address.

    Every cluster gets a part of 127.64.0.0/10 at random. Systems that know 127.0.0.1 only
    (macOS) always get the same addresses, so that they can be added once.

    Raises:
        LoopbackError: this system has no such addresses; the text names the commands that add them.
    """
    if ipv6:
        if nodes > 1:
            raise LoopbackError(
                f"ipv6=True has one loopback address, ::1, so nodes={nodes} cannot be: take nodes=1"
            )
        return _only_ipv6
    for _ in range(_ATTEMPTS):
        address = _network(random.randrange(64, 127), random.randrange(0, 128))
        status = _bind_status(address(0), 0)
        if status == errno.EADDRNOTAVAIL:
            break
        if not status:
            return address
    address = _network(93, 0)
    missing = [address(n) for n in range(nodes) if _bind_status(address(n), 0)]
    if missing:
        lines = "\n".join(f"  sudo ifconfig lo0 alias {each} up" for each in missing)
        raise LoopbackError(
            "this system has no loopback addresses beyond 127.0.0.1, and every node needs one. "
            f"Add them (until the next restart):\n{lines}"
        )
    return address


def bind_all(addresses: Sequence[str], port: int | None) -> tuple[int, list[socket.socket]]:
    """Bind one socket an address, all to the same port; the caller closes them.

    Args:
        addresses: IP addresses of this machine.
        port: the port wanted, or None for any that is free on all of them.

    Raises:
        LoopbackError: the port is taken, or no port is free on all addresses.
    """
    candidates = [port] if port is not None else random.sample(_PORTS, _ATTEMPTS)
    problem: OSError | None = None
    for candidate in candidates:
        bound: list[socket.socket] = []
        try:
            for address in addresses:
                bound.append(bind(address, candidate))
            return candidate, bound
        except OSError as error:
            problem = error
            for each in bound:
                each.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
    raise LoopbackError(
        f"cannot bind {addresses[len(bound)]} port {candidates[-1]}: {problem}"
    ) from problem


def bind(address: str, port: int) -> socket.socket:
    """Bind a TCP socket that does not listen yet."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A node that comes back takes its port again while old connections are in TIME_WAIT.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _bind_status(address: str, port: int) -> int:
    try:
        bind(address, port).close()
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return 0


def _network(second: int, third: int) -> Address:
    def address(number: int) -> str:
        return f"127.{second}.{third + number // _LAST_HOST}.{number % _LAST_HOST + 1}"

    return address


def _only_ipv6(number: int) -> str:
    if number:
        raise LoopbackError("ipv6=True has one loopback address, ::1: no second node can be added")
    return "::1"
