"""NodeAddress: seeds and ``/localnodes`` entries become addresses. Pure: no I/O."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .errors import InvalidSettingError

__all__ = ["NodeAddress", "check_port", "check_scheme", "host_header", "parse_listed", "parse_seed"]

DEFAULT_PORTS = {"http": 80, "https": 443}

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where one node listens.

    Args:
        scheme: ``"http"`` or ``"https"``.
        host: an IP address in its canonical text form, without brackets, or a DNS name.
        port: the TCP port.
        name: the DNS name that the address was resolved from, if any: TLS presents and checks it.
            It is no part of the identity of the address.

    Immutable, hashable, and so safe to share between threads.
    """

    scheme: str
    host: str
    port: int
    name: str | None = field(default=None, compare=False)

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, and not a DNS name that has to be resolved."""
        return _ip(self.host) is not None

    @property
    def url(self) -> str:
        """The address as a URL, as in ``http://[::1]:8000``."""
        return f"{self.scheme}://{self}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_scheme(scheme: object) -> str:
    """Return the scheme in lower case.

    Raises:
        InvalidSettingError: it is neither ``http`` nor ``https``.
    """
    if isinstance(scheme, str) and scheme.lower() in DEFAULT_PORTS:
        return scheme.lower()
    raise InvalidSettingError(f"scheme {scheme!r} is not possible; give 'http' or 'https'")


def check_port(port: object) -> int:
    """Return the port as it was given.

    Raises:
        InvalidSettingError: it is no integer from 1 to 65535.
    """
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return port
    raise InvalidSettingError(f"port {port!r} is not possible; give an integer from 1 to 65535")


@dataclass(frozen=True, slots=True)
class Seed:
    """The parts that a seed names; None stands for what it leaves open."""

    text: str
    scheme: str | None
    host: str
    port: int | None


def split_seed(seed: object, what: str = "seed") -> Seed:
    """Take a seed apart: an IP address, a DNS name, ``host:port`` or a URL.

    Args:
        seed: what the user gave.
        what: what it is called in the texts of errors.

    Raises:
        InvalidSettingError: it is nothing of these.
    """
    if not isinstance(seed, str):
        raise InvalidSettingError(
            f"{what} {seed!r} is a {type(seed).__name__}; give it as a string such as "
            "'10.0.0.1', 'db.example.com:8000' or 'http://10.0.0.1:8000'"
        )
    text = seed.strip()
    if _ip(text) is not None:
        return Seed(seed, None, _host(text, seed, what), None)
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError as error:
        raise InvalidSettingError(f"{what} {seed!r} cannot be read: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise InvalidSettingError(
            f"{what} {seed!r} carries more than a scheme, a host and a port; leave the rest out"
        )
    try:
        if port is not None:
            check_port(port)
        scheme = check_scheme(parts.scheme) if parts.scheme else None
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{what} {seed!r} cannot be used: {error}") from None
    return Seed(seed, scheme, _host(parts.hostname or "", seed, what), port)


def parse_seed(seed: object, scheme: str, port: int) -> NodeAddress:
    """Turn a seed of the user into an address of the cluster's one scheme and port.

    Args:
        seed: an IP address (IPv6 with or without brackets), a DNS name, ``host:port`` or a URL.
        scheme: the scheme of the cluster.
        port: the port of the cluster.

    Raises:
        InvalidSettingError: it cannot be read, or names another scheme or port.
    """
    parts = split_seed(seed)
    if parts.scheme not in (None, scheme):
        raise InvalidSettingError(
            f"seed {seed!r} says {parts.scheme}, but the scheme of the nodes is {scheme}; "
            "leave it out of the seed, or set scheme"
        )
    if parts.port not in (None, port):
        raise InvalidSettingError(
            f"seed {seed!r} says port {parts.port}, but the port of the nodes is {port}; all nodes "
            "listen on the same port: leave it out of the seed, or set port"
        )
    return NodeAddress(scheme, parts.host, port)


def parse_listed(entry: object, scheme: str, port: int) -> NodeAddress:
    """Turn one entry of a ``/localnodes`` answer into an address.

    The server writes IP addresses, without port and scheme, but can fall back to a host id (a
    UUID), which no client can connect to.

    Raises:
        ValueError: the entry is no address that a client could connect to; the text says why.
    """
    if not isinstance(entry, str):
        raise ValueError(f"{entry!r} is no string")
    return _parse_listed(entry, scheme, port)


@functools.lru_cache(maxsize=4096)  # the same entries come every second
def _parse_listed(entry: str, scheme: str, port: int) -> NodeAddress:
    ip = _ip(entry)
    if ip is None:
        raise ValueError(f"{entry!r} is no IP address")
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{entry!r} is no address to connect to")
    return NodeAddress(scheme, str(ip), port)


def host_header(scheme: str, host: str, port: int | None) -> str:
    """Return the Host header that a signer derives from a URL: no port where it is the default.

    This is how botocore.auth derives the ``host`` that it signs.
    """
    text = host.strip("[]").lower()
    if ":" in text:
        text = f"[{text}]"
    return text if port in (None, DEFAULT_PORTS.get(scheme)) else f"{text}:{port}"


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return None


def _host(text: str, seed: str, what: str) -> str:
    ip = _ip(text)
    if ip is not None:
        if ip.is_unspecified or ip.is_multicast:
            raise InvalidSettingError(f"{what} {seed!r} is no address to connect to")
        return str(ip)
    try:
        name = text.encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    labels = name.removesuffix(".").split(".")
    if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or len(name) > 253:
        raise InvalidSettingError(
            f"{what} {seed!r} names no host; give an IP address, a DNS name, 'host:port' or a URL"
        )
    return name
