"""The settings of AlternatorNodes: frozen, each checked once. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from .addresses import split_seed
from .errors import InvalidSettingError
from .events import NodeEvent

if TYPE_CHECKING:
    from urllib3 import PoolManager

__all__ = ["CaCerts", "ClientCert", "InstallKeywords", "Settings", "SettingsKeywords", "Verify"]

Path = str | os.PathLike[str]
Verify = bool | Path
CaCerts = Path | bytes | Sequence[Path] | None
ClientCert = Path | tuple[Path, Path] | None


_SECONDS = (
    "fetch_interval",
    "idle_interval",
    "connect_timeout",
    "failover_timeout",
    "discovery_timeout",
    "late_after",
)


_OF_A_CLIENT = ("max_pool_connections", "read_timeout", "retries", "tcp_keepalive", "proxies")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set, with the defaults.

    Args:
        fetch_interval: seconds between two polls of ``/localnodes`` while calls flow.
        idle_interval: seconds between two polls while no call is made.
        connect_timeout: seconds for one attempt to connect to one node, TLS included. The client's
            own connect timeout counts where it is shorter.
        failover_timeout: seconds that one call may spend on connecting, over all nodes it tries.
        discovery_timeout: seconds that a node has to connect, and then to answer ``/localnodes`` in
            whole, when it is polled or probed.
        watch: whether calls in flight are watched, so that a node that froze is found without
            waiting for the read timeout.
        late_after: seconds after which a call in flight is late, and its node is probed. A node
            that answers the probe stays, however late its calls are.
        lean: whether plain requests and answers take the short way past urllib3's and http.client's
            machinery. The result is the same, for less than half the CPU.
        short_user_agent: whether a patched client sends a short User-Agent in place of botocore's
            long one, which Alternator does not read.
        listener: is called with each `NodeEvent` (joined, left, down, up), from whatever thread
            noticed; what it raises is logged.
        verify: True checks the nodes' certificates, False does not, a path names the CA bundle (or
            the directory of CA certificates) to check them with. A patched client's own ``verify``
            counts for its calls.
        ca_certs: CA certificates to trust on top of those of ``verify``: a path, several, or the
            certificates themselves as PEM text (``str``) or DER (``bytes``).
        client_cert: the client's certificate: the path of a PEM file, or of certificate and key.
        server_hostname: the name to present (SNI) and to check in the nodes' certificates, where
            nodes are reached by IP and their certificates name the cluster.
        http: a ``urllib3.PoolManager`` that discovery uses in place of its own. Its TLS settings
            are its own, too.

    Raises:
        InvalidSettingError: a value is not possible; the text names the setting and the value.
    """

    fetch_interval: float = 1.0
    idle_interval: float = 60.0
    connect_timeout: float = 1.5
    failover_timeout: float = 5.0
    discovery_timeout: float = 0.8
    watch: bool = True
    late_after: float = 0.7
    lean: bool = True
    short_user_agent: bool = False
    listener: Callable[[NodeEvent], object] | None = None
    verify: Verify = True
    ca_certs: CaCerts = None
    client_cert: ClientCert = None
    server_hostname: str | None = None
    http: PoolManager | None = None

    def __post_init__(self) -> None:
        for name in _SECONDS:
            check_seconds(name, getattr(self, name))
        for name in ("watch", "lean", "short_user_agent"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, getattr(self, name), "True or False")
        if self.listener is not None and not callable(self.listener):
            raise _wrong("listener", self.listener, "a function that takes one event")
        if not isinstance(self.verify, bool) and not _is_path(self.verify):
            raise _wrong("verify", self.verify, "True, False or the path of a CA bundle")
        trusted: Any = self.ca_certs
        if trusted is not None:
            for entry in trusted if isinstance(trusted, (list, tuple)) else [trusted]:
                if not _is_path(entry) and not isinstance(entry, bytes):
                    raise _wrong("ca_certs", trusted, "paths, PEM text or DER bytes")
        pair = self.client_cert
        if isinstance(pair, tuple) and len(pair) == 2:
            right = _is_path(pair[0]) and _is_path(pair[1])
        else:
            right = pair is None or _is_path(pair)
        if not right:
            raise _wrong("client_cert", pair, "a path or (certificate, key)")
        if self.server_hostname is not None:
            try:
                told = split_seed(self.server_hostname)
            except InvalidSettingError:
                told = None
            if told is None or told.scheme is not None or told.port is not None:
                raise _wrong("server_hostname", self.server_hostname, "a DNS name")
        if self.http is not None and not hasattr(self.http, "connection_from_host"):
            raise _wrong("http", self.http, "a urllib3.PoolManager")

    @classmethod
    def of(cls, given: Mapping[str, Any], others: Sequence[str] = ()) -> Settings:
        """Return settings from keywords.

        Args:
            given: the keywords.
            others: what else may be set where they were given, for the texts of errors.

        Raises:
            InvalidSettingError: there is no such setting, or its value is not possible.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                names += others
                close = difflib.get_close_matches(name.lower(), names, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                if name in _OF_A_CLIENT:
                    hint = "it belongs to the client: give it to botocore's Config. "
                raise InvalidSettingError(
                    f"there is no setting {name!r} (given as {given[name]!r}); {hint}"
                    f"The settings are: {', '.join(names)}"
                )
        return cls(**given)


class SettingsKeywords(TypedDict, total=False):
    """The settings as keywords, for editors and type checkers; see `Settings`."""

    fetch_interval: float
    idle_interval: float
    connect_timeout: float
    failover_timeout: float
    discovery_timeout: float
    watch: bool
    late_after: float
    lean: bool
    short_user_agent: bool
    listener: Callable[[NodeEvent], object] | None
    verify: Verify
    ca_certs: CaCerts
    client_cert: ClientCert
    server_hostname: str | None
    http: PoolManager | None


class InstallKeywords(SettingsKeywords, total=False):
    """The keywords of `install_alternator_transport`."""

    scheme: str
    port: int


def check_seconds(name: str, value: object) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidSettingError: it is no finite number above 0.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise _wrong(name, value, "seconds, a number above 0")


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike)) and value != ""


def _wrong(name: str, value: object, wanted: str) -> InvalidSettingError:
    return InvalidSettingError(f"setting {name}={value!r} is not possible; give {wanted}")
